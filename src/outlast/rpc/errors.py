"""Errors on the wire: one table from our errors to codes, with details (AIP-193)."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from typing import Any, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyProto
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from outlast.domain import errors
from outlast.domain.status import Code, Payload, Status
from outlast.engine.outcome import UNEXPECTED, AttemptFailedError
from outlast.engine.processes import WorkerProcessError
from outlast.rpc.retry_info import STATUS_TRAILER, retry_delay, retry_delay_of_call

_log = logging.getLogger(__name__)

ERROR_DOMAIN = "outlastapi"
"""`ErrorInfo.domain` of everything that the framework itself says."""

TYPE_PREFIX = "type.googleapis.com/"

_UNEXPECTED_IN_RPC = replace(UNEXPECTED, message="the request failed unexpectedly")

_FAULT = "the service has a mistake, which the log of its server describes"
"""All that a client learns of it: what there is to say may hold what is not for clients."""

_CODES: Mapping[type[errors.OutlastError], Code] = {
    errors.InvalidArgumentError: Code.INVALID_ARGUMENT,
    errors.OperationNotFoundError: Code.NOT_FOUND,
    errors.ExclusiveConflictError: Code.ABORTED,
    errors.NotRedrivableError: Code.FAILED_PRECONDITION,
    errors.LeaseLostError: Code.ABORTED,
    errors.ResourceExhaustedError: Code.RESOURCE_EXHAUSTED,
    errors.PayloadTooLargeError: Code.RESOURCE_EXHAUSTED,
    errors.UnsupportedError: Code.UNIMPLEMENTED,
    errors.ServerStoppingError: Code.UNAVAILABLE,
    errors.StoreUnavailableError: Code.UNAVAILABLE,
    WorkerProcessError: Code.UNAVAILABLE,
}

# Many clients refuse trailers over 8 KiB. A byte of a message may take three of them, and
# three bytes of a status four; the rest is for names, lengths and what proxies add.
_MAX_MESSAGE_BYTES = 480
_MAX_STATUS_BYTES = 4 * 1024
_MAX_VALUE = 200

# What AIP-193 and names of hosts allow; and there are about as many types of details.
_MAX_REASON = 63
_MAX_DOMAIN = 253
_MAX_DETAILS = 16


class ServiceError(Exception):
    """An error for the caller, with a code of the service's choice.

    Raise it from `validate` and from ordinary RPCs. `reason` is UPPER_SNAKE_CASE and
    stable; `domain` names the service; `metadata` holds what is variable in the
    message. `details` are further messages of google.rpc, each type once. What is too
    long for its place is cut short or left out. Raises TypeError and ValueError for
    what cannot be sent.
    """

    def __init__(
        self,
        code: Code | grpc.StatusCode,
        message: str,
        *,
        reason: str = "SERVICE_ERROR",
        domain: str = ERROR_DOMAIN,
        metadata: Mapping[str, str] | None = None,
        details: Sequence[Message] = (),
    ) -> None:
        checked = Code.of(code)
        if checked is Code.OK:
            msg = "an error cannot have code OK"
            raise ValueError(msg)
        message = text_of("message", message)
        for detail in details:
            _require("details", detail, Message, "protobuf messages")
        super().__init__(message)
        info = _error_info(reason, domain, metadata)
        kept = info, *islice(details, _MAX_DETAILS)
        self.status = Status(checked, message, tuple(map(pack, kept)), info.reason)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it has become: it may be raised in another process."""
        return type(self).__new__, (type(self), *self.args), self.__dict__


class OperationFailed(ServiceError):  # noqa: N818  # what happened, in the words of the API
    """The operation has failed: raise it from the handler of a long-running method.

    It is retried if the method's retry policy has the code, or if `retry_delay` or a
    RetryInfo among the `details` says when; otherwise the operation ends with this error.
    """

    def __init__(
        self,
        code: Code | grpc.StatusCode,
        message: str,
        *,
        reason: str = "OPERATION_FAILED",
        domain: str = ERROR_DOMAIN,
        metadata: Mapping[str, str] | None = None,
        details: Sequence[Message] = (),
        retry_delay: timedelta | None = None,
    ) -> None:
        super().__init__(
            code, message, reason=reason, domain=domain, metadata=metadata, details=details
        )
        if retry_delay is not None:
            _require("retry_delay", retry_delay, timedelta, "a datetime.timedelta")
        self.retry_delay = retry_delay


def text_of(name: str, value: object) -> str:
    """Return a value that is text that can be sent, or raise TypeError or ValueError.

    What is returned is a str and no more: whatever a class of its own does when it is
    encoded, it would do where nobody expects it.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {value!r}")
    text = str.__str__(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        msg = f"{name} must be text that UTF-8 can encode, not {text!r}"
        raise ValueError(msg) from None
    return text


def _require(name: str, value: object, kind: type, expected: str) -> None:
    if not isinstance(value, kind):
        msg = f"{name} must be {expected}, not {value!r}"
        raise TypeError(msg)


def sendable(text: object) -> str:
    """Return text that can be sent, in the place of something that perhaps cannot."""
    return str(text).encode(errors="replace").decode()


def pack(message: Message) -> Payload:
    """Pack a message, the same bytes for equal messages."""
    return Payload(
        TYPE_PREFIX + message.DESCRIPTOR.full_name, message.SerializeToString(deterministic=True)
    )


def status_of(error: BaseException) -> Status:
    """Return what a caller learns of an error; nothing of what was not meant for it."""
    if isinstance(error, ServiceError):
        return error.status
    if not isinstance(error, errors.OutlastError):
        return _UNEXPECTED_IN_RPC
    code = next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), None)
    if code is None:
        return Status(Code.INTERNAL, _FAULT, (pack(_error_info(error.reason)),), error.reason)
    return Status(
        code, error.message, tuple(pack(detail) for detail in _details(error)), error.reason
    )


def attempt_failure(error: Exception) -> Exception:
    """Return what the engine is told of an error: a failure that callers see, or itself.

    An error with a RetryInfo is tried again after the delay in it. That goes for the errors
    of other servers that were called; of those callers see nothing more.
    """
    if isinstance(error, OperationFailed) and error.retry_delay is not None:
        return AttemptFailedError(error.status, error.retry_delay)
    if isinstance(error, (ServiceError, errors.OutlastError)):
        status = status_of(error)
        return AttemptFailedError(status, retry_delay(status.details))
    if isinstance(error, grpc.RpcError) and (delay := retry_delay_of_call(error)) is not None:
        return AttemptFailedError(UNEXPECTED, delay)
    return error


def status_to_proto(status: Status) -> status_pb2.Status:
    """Return a google.rpc.Status; it always has an ErrorInfo."""
    details = [AnyProto(type_url=each.type_url, value=each.value) for each in status.details]
    if not any(each.type_url == _ERROR_INFO for each in status.details):
        info = pack(_error_info(status.reason))
        details.insert(0, AnyProto(type_url=info.type_url, value=info.value))
    code = int(status.code)
    try:
        return status_pb2.Status(code=code, message=status.message, details=details)
    except (TypeError, ValueError):  # a record of a time when messages were not checked
        return status_pb2.Status(code=code, message=sendable(status.message), details=details)


async def abort(context: Any, error: BaseException) -> NoReturn:
    """End an RPC with an error and its details."""
    status = status_of(error)
    if status.code is Code.INTERNAL and not isinstance(error, ServiceError):
        _log.error("an RPC failed unexpectedly", exc_info=error)
    proto = _fitting(status_to_proto(status))
    trailers = ((STATUS_TRAILER, proto.SerializeToString()),)
    await context.abort(_GRPC_CODES[proto.code], proto.message, trailers)
    raise AssertionError  # abort raises


def _fitting(status: status_pb2.Status) -> status_pb2.Status:
    """Return as much of a status as trailers can carry: an ErrorInfo and what fits beside it."""
    info, *others = status.details
    fitting = status_pb2.Status(code=status.code, message=_fitting_message(status.message))
    fitting.details.append(info)
    if fitting.ByteSize() > _MAX_STATUS_BYTES:
        whole = error_details_pb2.ErrorInfo.FromString(info.value)
        fitting.details[0].Pack(_error_info(whole.reason, whole.domain))
    for detail in others:
        fitting.details.append(detail)
        if fitting.ByteSize() > _MAX_STATUS_BYTES:
            del fitting.details[-1]
    return fitting


def _fitting_message(message: str) -> str:
    encoded = message.encode(errors="replace")
    if len(encoded) <= _MAX_MESSAGE_BYTES:
        return encoded.decode()
    return encoded[:_MAX_MESSAGE_BYTES].decode(errors="ignore") + "…"


_GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}
_ERROR_INFO = TYPE_PREFIX + error_details_pb2.ErrorInfo.DESCRIPTOR.full_name


def _error_info(
    reason: str, domain: str = ERROR_DOMAIN, metadata: Mapping[str, str] | None = None
) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(
        reason=reason[:_MAX_REASON], domain=domain[:_MAX_DOMAIN], metadata=metadata or {}
    )


def _details(error: errors.OutlastError) -> list[Message]:
    metadata = {key: _shortened(value, _MAX_VALUE) for key, value in error.metadata.items()}
    info = _error_info(error.reason, metadata=metadata)
    details: list[Message] = [info]
    match error:
        case errors.InvalidArgumentError():
            violation = error_details_pb2.BadRequest.FieldViolation(
                field=_shortened(error.field, _MAX_VALUE),
                description=_fitting_message(error.description),
                reason=info.reason,
            )
            details.append(error_details_pb2.BadRequest(field_violations=[violation]))
        case errors.OperationNotFoundError():
            details.append(
                error_details_pb2.ResourceInfo(
                    resource_type="google.longrunning.Operation",
                    resource_name=_shortened(error.name, _MAX_VALUE),
                )
            )
        case errors.ResourceExhaustedError():
            details.append(error_details_pb2.RetryInfo(retry_delay=error.retry_delay))
        case _:
            pass
    return details


def _shortened(text: str, limit: int) -> str:
    text = sendable(text)
    return text if len(text) <= limit else text[: limit - 1] + "…"
