"""Texts with the one character that PostgreSQL does not keep: U+0000."""

from hashlib import sha256

from outlast.domain.operation import Operation
from outlast.stores.rows import Row, all_values, operation_from_row

_NULL, _ESCAPE = "\0", "\ue000"
_FREE = ("target", "exclusive_key", "request_id")
"""The texts of a record that others choose, and that may have any character."""


def kept(text: str) -> str:
    """Return a text as it is kept."""
    if _NULL not in text and _ESCAPE not in text:
        return text
    return text.replace(_ESCAPE, _ESCAPE + "1").replace(_NULL, _ESCAPE + "0")


def given(text: str) -> str:
    """Return a text as it was before it was kept."""
    if _ESCAPE not in text:
        return text
    return text.replace(_ESCAPE + "0", _NULL).replace(_ESCAPE + "1", _ESCAPE)


def findable(name: str) -> bool:
    """Whether there may be something of a name."""
    return _NULL not in name


def row_of(operation: Operation) -> Row:
    """Return the values of a new operation's row: COLUMNS, and the digest of its exclusive key."""
    texts = _free_texts(operation)
    if _NULL in texts or _ESCAPE in texts:
        operation = operation.evolve(**{it: kept(getattr(operation, it)) for it in _FREE})
    return *all_values(operation), digest_of(operation.exclusive_key)


def digest_of(exclusive_key: str) -> bytes:
    """Return what exclusive keys are compared by: they may be longer than an index allows."""
    return sha256(exclusive_key.encode()).digest() if exclusive_key else b""


def operation_of(row: Row) -> Operation:
    """Read the values of COLUMNS back."""
    operation = operation_from_row(row)
    if _ESCAPE in _free_texts(operation):
        operation = operation.evolve(**{it: given(getattr(operation, it)) for it in _FREE})
    return operation


def _free_texts(operation: Operation) -> str:
    return operation.target + operation.exclusive_key + operation.request_id
