"""What a filter may name: the fields of records and their types.

A schema names the fields of one kind of record; a field says of which type it is
and how to get its value from the record that contains it. Schemas nest as
messages do.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol


class Kind(StrEnum):
    """What a scalar is, and which Python type its values have."""

    BOOL = "a boolean"
    INT = "an integer"
    FLOAT = "a number"
    STRING = "a string"
    TIMESTAMP = "a timestamp"
    """An aware datetime."""
    DURATION = "a duration"
    """A timedelta."""
    TYPE_URL = "a type URL"
    """A string; an argument without `/` is compared with what follows its last `/`."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value."""

    kind: Kind
    names: Mapping[str, int] = field(default_factory=dict)
    """Names that an integer may be written as."""


@dataclass(frozen=True, slots=True)
class Enumeration:
    """The name of one of some values."""

    values: tuple[str, ...]
    default: str = ""
    """The name of the value that counts as absent, if there is one."""


@dataclass(frozen=True, slots=True)
class Message:
    """A record with fields of its own. Without any it can only be present or not."""

    schema: "Schema"


@dataclass(frozen=True, slots=True)
class Repeated:
    """Several values, an iterable with a length."""

    element: "Scalar | Enumeration | Message"


@dataclass(frozen=True, slots=True)
class Map:
    """Values by key, a mapping."""

    key: Scalar
    value: "Scalar | Enumeration | Message"


Type = Scalar | Enumeration | Message | Repeated | Map


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a record.

    `get` returns its value in a record, None if the record does not have it: an
    unset message or optional field, or a record of another type.
    """

    type: Type
    get: Callable[[Any], Any]


class Schema(Protocol):
    """The fields of a kind of record."""

    def fields(self, name: str) -> Sequence[Field]:
        """Return the field of a name, none if it is unknown.

        There are several where records are of several types; `get` of each returns
        None for records of the others.
        """


class SearchableSchema(Schema, Protocol):
    """The schema of the records that a filter is applied to."""

    def texts(self, record: Any) -> Iterable[str]:
        """Return in what a bare literal is searched for."""


@dataclass(frozen=True, slots=True)
class FixedSchema:
    """A schema that is known in full."""

    by_name: Mapping[str, Field] = field(default_factory=dict)

    def fields(self, name: str) -> Sequence[Field]:
        """Return the field of a name."""
        found = self.by_name.get(name)
        return () if found is None else (found,)


@dataclass(frozen=True, slots=True)
class UnionSchema:
    """Records of several types: what is a field of any of them may be named."""

    members: tuple[Schema, ...]

    def fields(self, name: str) -> Sequence[Field]:
        """Return the fields of a name in all of them."""
        return [each for member in self.members for each in member.fields(name)]
