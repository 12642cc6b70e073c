"""Every error that Outlast raises on purpose.

Each class has a stable `reason`, which clients receive in `ErrorInfo.reason`
(AIP-193); what is variable about one error is in `metadata`. The transport
layer maps the classes to codes in one table.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import ClassVar


class OutlastError(Exception):
    """The base of them all."""

    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: Mapping[str, str] = metadata


class InvalidArgumentError(OutlastError):
    """A field of a request is wrong; `field` is its path in the proto."""

    reason = "INVALID_FIELD"

    def __init__(self, field: str, description: str, **metadata: str) -> None:
        super().__init__(f"{field}: {description}", field=field, **metadata)
        self.field = field
        self.description = description


class InvalidFilterError(InvalidArgumentError):
    """A list filter is not AIP-160, or names what does not exist."""

    reason = "INVALID_FILTER"

    def __init__(self, description: str) -> None:
        super().__init__("filter", description)


class InvalidPageTokenError(InvalidArgumentError):
    """A page token was not issued for this request by this server."""

    reason = "INVALID_PAGE_TOKEN"

    def __init__(self) -> None:
        super().__init__(
            "page_token", "not a token that this server issued for this name and filter"
        )


class RequestIdReusedError(InvalidArgumentError):
    """A request_id came back with another request."""

    reason = "REQUEST_ID_REUSED"

    def __init__(self, request_id: str) -> None:
        super().__init__(
            "request_id", "already used for a different request", request_id=request_id
        )


class OperationNotFoundError(OutlastError):
    """There is no such operation: it never was, was deleted, or has expired."""

    reason = "OPERATION_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(f"operation {_shortened(name)!r} not found", name=_shortened(name))
        self.name = name


class ExclusiveConflictError(OutlastError):
    """Another operation on the same resource has not ended (AIP-151)."""

    reason = "PARALLEL_OPERATION"

    def __init__(self, key: str, holder: str, *, deleted: bool = False) -> None:
        work = f"is still working on {_shortened(key)!r}"
        super().__init__(
            f"operation {holder!r}, which was deleted, {work}; try again later"
            if deleted
            else f"operation {holder!r} {work}; wait until it is done, or cancel it",
            key=_shortened(key),
            operation=holder,
        )


class NotRedrivableError(OutlastError):
    """The work of an operation cannot be done again: it goes on, or has succeeded."""

    reason = "OPERATION_NOT_REDRIVABLE"

    def __init__(self, name: str, state: str) -> None:
        super().__init__(
            f"operation {_shortened(name)!r} is {state}; only one that failed or was "
            "cancelled can be redriven",
            name=_shortened(name),
            state=state,
        )


class ResourceExhaustedError(OutlastError):
    """A limit is reached; the caller may try again after `retry_delay`."""

    reason = "LIMIT_REACHED"
    retry_delay = timedelta(seconds=1)


class QueueFullError(ResourceExhaustedError):
    """As many operations wait for a worker as may."""

    reason = "QUEUE_FULL"

    def __init__(self, limit: int, method: str | None = None) -> None:
        what = "operations" if method is None else f"operations of {method}"
        super().__init__(f"{limit} {what} are waiting already; try again later", limit=str(limit))


class TooManyWaitersError(ResourceExhaustedError):
    """As many calls wait for operations as may."""

    reason = "TOO_MANY_WAITERS"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"{limit} calls are waiting for operations already; poll, or try again later",
            limit=str(limit),
        )


class TooManyCallsError(ResourceExhaustedError):
    """As many calls are under way as may."""

    reason = "TOO_MANY_CALLS"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"{limit} calls are being answered already; try again later", limit=str(limit)
        )


class PayloadTooLargeError(OutlastError):
    """A payload is larger than its limit."""

    reason = "PAYLOAD_TOO_LARGE"

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(
            f"{what} has {size} bytes; the limit is {limit}",
            what=what,
            size=str(size),
            limit=str(limit),
        )


class UnsupportedError(OutlastError):
    """Something that the protocol has and this server does not."""

    reason = "UNSUPPORTED"

    def __init__(self, field: str) -> None:
        super().__init__(f"{field} is not supported", field=field)
        self.field = field


class LeaseLostError(OutlastError):
    """The operation is no longer this worker's: nothing was written."""

    reason = "LEASE_LOST"

    def __init__(self, name: str, epoch: int) -> None:
        super().__init__(f"lease {epoch} of operation {name!r} is lost", name=name)
        self.name = name
        self.epoch = epoch


class DuplicateStepError(OutlastError):
    """One attempt used the same step key twice."""

    reason = "DUPLICATE_STEP"

    def __init__(self, name: str, key: str) -> None:
        super().__init__(f"step {key!r} of operation {name!r} was used twice in one run", key=key)


class ServerStoppingError(OutlastError):
    """The server ends, and takes no call any more. Nothing was done; another server may do it."""

    reason = "SERVER_STOPPING"

    def __init__(self) -> None:
        super().__init__("the server is stopping; try again")


class StoreUnavailableError(OutlastError):
    """The store cannot answer now. Nothing was written, or it will be seen when it is back."""

    reason = "STORE_UNAVAILABLE"


class StoreOpenError(OutlastError):
    """A store cannot be opened; the message says why and what to do. It was not changed."""

    reason = "STORE_NOT_OPENED"


class ConfigurationError(OutlastError):
    """A service or a server is put together wrongly; found at start-up."""

    reason = "CONFIGURATION"


_SHOWN_CHARACTERS = 200


def _shortened(text: str) -> str:
    """Keep what is echoed to a caller short (error details travel in trailers)."""
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
