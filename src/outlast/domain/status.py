"""Payloads and statuses: what `google.protobuf.Any` and `google.rpc.Status` carry."""

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any


class Code(IntEnum):
    """The canonical error codes (google/rpc/code.proto)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16

    @classmethod
    def of(cls, code: int | Enum) -> "Code":
        """Return a code that came as a number, or as a member of `grpc.StatusCode`.

        Raises ValueError if it is neither.
        """
        value: Any = getattr(code, "value", code)  # grpc pairs the number with a name
        return cls(value[0] if isinstance(value, tuple) else value)


@dataclass(frozen=True, slots=True)
class Payload:
    """A serialised message and the URL of its type."""

    type_url: str
    value: bytes = b""


@dataclass(frozen=True, slots=True)
class Status:
    """Why something failed. The code is never OK."""

    code: Code
    message: str
    details: tuple[Payload, ...] = ()
    reason: str = "OPERATION_FAILED"
    """What `ErrorInfo.reason` says, unless `details` has an ErrorInfo of its own."""
