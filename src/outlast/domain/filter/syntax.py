"""What a filter says, as a small tree."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from outlast.domain.errors import InvalidFilterError

_SHOWN_CHARACTERS = 60


class Operator(StrEnum):
    """What stands between a field and its argument."""

    EQUALS = "="
    NOT_EQUALS = "!="
    LESS_THAN = "<"
    LESS_EQUALS = "<="
    GREATER_THAN = ">"
    GREATER_EQUALS = ">="
    HAS = ":"


@dataclass(frozen=True, slots=True)
class Text:
    """A value as it was written, not yet of a type."""

    pieces: tuple[str, ...]
    """What stands before, between and after its wildcards; one piece if it has none."""
    position: int = field(default=0, compare=False)

    @classmethod
    def join(cls, texts: Sequence["Text"]) -> "Text":
        """Return one text for several that were written without space between them."""
        pieces = [""]
        for each in texts:
            first, *others = each.pieces
            pieces[-1] += first
            pieces += others
        return cls(tuple(pieces), texts[0].position)

    @property
    def text(self) -> str:
        """The text, a wildcard as `*`."""
        return "*".join(self.pieces)

    @property
    def has_wildcard(self) -> bool:
        """Whether it stands for more than one text."""
        return len(self.pieces) > 1

    def matches(self, text: str) -> bool:
        """Whether a text is this one; a wildcard stands for any characters, or none."""
        if not self.has_wildcard:
            return text == self.pieces[0]
        first, *middle, last = self.pieces
        start, end = len(first), len(text) - len(last)
        if start > end or not (text.startswith(first) and text.endswith(last)):
            return False
        # Leftmost is always right, so nothing is ever tried twice.
        for piece in middle:
            found = text.find(piece, start, end)
            if found < 0:
                return False
            start = found + len(piece)
        return True


ANYTHING = Text(("", ""))
"""A single `*`; with `:` it asks for presence."""


@dataclass(frozen=True, slots=True)
class Search:
    """A bare literal: to be found anywhere in the fields that are searched."""

    text: Text


@dataclass(frozen=True, slots=True)
class Restriction:
    """A field, an operator and what the field is compared with."""

    path: tuple[str, ...]
    operator: Operator
    argument: Text
    position: int = field(default=0, compare=False)

    @property
    def asks_for_presence(self) -> bool:
        """Whether any value will do, as long as there is one."""
        return self.operator is Operator.HAS and self.argument == ANYTHING

    @property
    def name(self) -> str:
        """The field's path, shortened to be shown."""
        return shown(".".join(self.path))


@dataclass(frozen=True, slots=True)
class Not:
    """True if its operand is not true."""

    operand: "Expression"


@dataclass(frozen=True, slots=True)
class And:
    """True if all its operands are; the empty filter has none."""

    operands: tuple["Expression", ...] = ()


@dataclass(frozen=True, slots=True)
class Or:
    """True if any of its operands is."""

    operands: tuple["Expression", ...]


Expression = Search | Restriction | Not | And | Or


def invalid(description: str, position: int) -> InvalidFilterError:
    """Return the error that says what is wrong and where; characters count from 1."""
    return InvalidFilterError(f"{description} (at character {position + 1})")


def shown(text: str) -> str:
    """Return a quoted text, shortened: errors travel in trailers, which have a limit."""
    if len(text) > _SHOWN_CHARACTERS:
        text = text[: _SHOWN_CHARACTERS - 1] + "…"
    return repr(text)
