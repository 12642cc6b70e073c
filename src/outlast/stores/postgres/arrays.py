"""Columns of rows as binary arrays, which is how statements are given many rows.

psycopg would choose the types of lists by their values, so that the same statement came
with ever other types, and was prepared for each of them anew. It is slower, too.
"""

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, NamedTuple, Self

import psycopg
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format

from outlast.stores.rows import Row

_NULL = b"\xff\xff\xff\xff"
_HEAD = Struct("!iiIii").pack
_LENGTH = Struct("!i").pack
_BIGINT = Struct("!iq").pack
_BOOLEAN = Struct("!i?").pack


class RowStatement(NamedTuple):
    """A statement that is for any number of rows."""

    sql: str
    types: Sequence[str]
    """The types of the rows' values."""

    def parameters(self, rows: Sequence[Row]) -> Sequence["Array"]:
        """Return the arrays of the columns of rows, of which there is one at least."""
        columns = zip(*rows, strict=True)
        return [_ARRAYS[it](column) for it, column in zip(self.types, columns, strict=True)]


class Array(bytes):
    """An array in PostgreSQL's binary form: of one dimension, with at least one element."""

    __slots__ = ()
    element_type: int
    elements: Callable[[Sequence[Any]], list[bytes]]
    """Return the elements with their lengths."""

    def __new__(cls, values: Sequence[Any]) -> Self:
        has_null = None in values
        head = _HEAD(1, has_null, cls.element_type, len(values), 1)
        return super().__new__(cls, head + b"".join(cls.elements(values)))


class _Bigints(Array):
    element_type = psycopg.adapters.types["int8"].oid

    @staticmethod
    def elements(values: Sequence[int | None]) -> list[bytes]:
        return [_NULL if it is None else _BIGINT(8, it) for it in values]


class _Booleans(Array):
    element_type = psycopg.adapters.types["bool"].oid

    @staticmethod
    def elements(values: Sequence[bool | None]) -> list[bytes]:
        return [_NULL if it is None else _BOOLEAN(1, it) for it in values]


class _Byteas(Array):
    element_type = psycopg.adapters.types["bytea"].oid

    @staticmethod
    def elements(values: Sequence[bytes | None]) -> list[bytes]:
        return [_NULL if it is None else _LENGTH(len(it)) + it for it in values]


class _Texts(Array):
    element_type = psycopg.adapters.types["text"].oid

    @staticmethod
    def elements(values: Sequence[str | None]) -> list[bytes]:
        return _Byteas.elements([None if it is None else it.encode() for it in values])


_ARRAYS: dict[str, type[Array]] = {
    "bigint": _Bigints,
    "boolean": _Booleans,
    "bytea": _Byteas,
    "text": _Texts,
}


class _ArrayDumper(Dumper):
    format = Format.BINARY

    def __init__(self, cls: type[Array], context: AdaptContext | None = None) -> None:
        super().__init__(cls, context)
        self.oid = psycopg.adapters.types[cls.element_type].array_oid

    def dump(self, obj: Array) -> Buffer:
        return obj


for _array in _ARRAYS.values():
    psycopg.adapters.register_dumper(_array, _ArrayDumper)
