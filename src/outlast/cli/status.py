"""google.rpc.Status in words."""

from contextlib import suppress

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from outlast.cli.snapshot import StatusText
from outlast.domain.status import Code


def describe(status: Status) -> StatusText:
    """Say what a status says: its message, its code and reason, and the fields at fault."""
    code = _code_name(status.code)
    tags = [code]
    details: list[str] = []
    for detail in status.details:
        match _unpacked(detail):
            case ErrorInfo() as info:
                tags.append(f"{info.reason} of {info.domain}" if info.domain else info.reason)
            case BadRequest() as request:
                details += [
                    f"{each.field}: {each.description}" for each in request.field_violations
                ]
            case RetryInfo() as retry:
                seconds = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
                details.append(f"try again in {seconds:g} s")
            case None:
                pass  # not a detail that has a line of its own
    message = status.message or "no message"
    new = tuple(detail for detail in details if detail != message)
    return StatusText(status.code, f"{message} ({', '.join(tags)})", f"{code}: {message}", new)


def fields_at_fault(status: Status) -> frozenset[str]:
    """Return the fields of a request that a status names as wrong."""
    details = map(_unpacked, status.details)
    violations = (it.field_violations for it in details if isinstance(it, BadRequest))
    return frozenset(violation.field for each in violations for violation in each)


def _unpacked(detail: Any) -> ErrorInfo | BadRequest | RetryInfo | None:
    name = detail.type_url.rpartition("/")[2]
    for message in (ErrorInfo(), BadRequest(), RetryInfo()):
        if message.DESCRIPTOR.full_name == name:
            with suppress(DecodeError):
                message.ParseFromString(detail.value)
                return message
    return None


def _code_name(code: int) -> str:
    try:
        return Code(code).name
    except ValueError:
        return f"code {code}"
