"""The names of operations: `{parent}/operations/{id}`, or `operations/{id}` (AIP-122)."""

import re

from outlast.domain.errors import InvalidArgumentError

MAX_NAME_LENGTH = 1024
MAX_PARENT_LENGTH = 512

EVERY_PARENT = "-"
"""What stands for every parent, none included, where operations are listed (AIP-159)."""

_COLLECTION = "operations"
_OPERATION = re.compile(r"(?:(?P<parent>[^/]+(?:/[^/]+)*)/)?operations/[^/]+")
_PARENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]*(?:/[A-Za-z0-9][A-Za-z0-9._~-]*)*")


def operation_name(parent: str, operation_id: str) -> str:
    """Put a name together."""
    return f"{parent}/operations/{operation_id}" if parent else f"operations/{operation_id}"


def check_operation_name(name: str) -> str:
    """Return a name that could be an operation's, or raise InvalidArgumentError."""
    if not name:
        raise InvalidArgumentError("name", "must not be empty")
    if len(name) > MAX_NAME_LENGTH:
        raise InvalidArgumentError("name", f"longer than {MAX_NAME_LENGTH} characters")
    if _OPERATION.fullmatch(name) is None:
        raise InvalidArgumentError("name", "must end in operations/{id}")
    return name


def check_parent(parent: str) -> str:
    """Return a parent that operations may be named under (empty for none), or raise."""
    if len(parent) > MAX_PARENT_LENGTH:
        raise InvalidArgumentError("parent", f"longer than {MAX_PARENT_LENGTH} characters")
    if parent and _PARENT.fullmatch(parent) is None:
        raise InvalidArgumentError(
            "parent",
            "must be segments of letters, digits and . _ ~ - that are separated by single slashes",
        )
    if parent == _COLLECTION or parent.endswith(f"/{_COLLECTION}"):
        raise InvalidArgumentError("parent", "must not end in operations")
    return parent


def parent_of_collection(name: str, field: str = "name") -> str:
    """Return the parent that a request names in a field, as `{parent}` or `{parent}/operations`.

    `operations` and the empty name are the root. EVERY_PARENT may be meant.
    """
    if len(name) > MAX_NAME_LENGTH:
        raise InvalidArgumentError(field, f"longer than {MAX_NAME_LENGTH} characters")
    if name in {"", "operations"}:
        return ""
    parent = name.removesuffix("/operations")
    if parent == EVERY_PARENT:
        return parent
    if EVERY_PARENT in parent.split("/"):
        raise InvalidArgumentError(field, "'-' in place of a segment is not supported")
    if _PARENT.fullmatch(parent) is None:
        raise InvalidArgumentError(field, "must be a parent resource, or {parent}/operations")
    return parent
