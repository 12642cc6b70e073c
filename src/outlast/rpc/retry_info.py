"""When an error says that it is worth another try: google.rpc.RetryInfo."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Protocol

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

STATUS_TRAILER = "grpc-status-details-bin"

_RETRY_INFO = error_details_pb2.RetryInfo.DESCRIPTOR.full_name
_MAX_SECONDS = 315_576_000_000
"""What a Duration may have at the most."""


class Packed(Protocol):
    """A message with its type, as a Payload and an Any are."""

    @property
    def type_url(self) -> str:
        """The URL of the type."""

    @property
    def value(self) -> bytes:
        """The serialised message."""


def retry_delay(details: Iterable[Packed]) -> timedelta | None:
    """Return the delay of the RetryInfo among the details of a status, None if there is none."""
    for detail in details:
        if detail.type_url.rpartition("/")[2] == _RETRY_INFO:
            try:
                delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
            except DecodeError:
                return None
            seconds = min(max(delay.seconds, 0), _MAX_SECONDS)
            return timedelta(seconds=seconds, microseconds=-(-delay.nanos // 1000))
    return None


def retry_delay_of_call(error: grpc.RpcError) -> timedelta | None:
    """Return the delay that a server which was called asks for, None if it asks for none."""
    trailers = getattr(error, "trailing_metadata", lambda: None)()
    for key, value in trailers or ():
        if key == STATUS_TRAILER:
            try:
                return retry_delay(status_pb2.Status.FromString(value).details)
            except DecodeError:
                return None
    return None
