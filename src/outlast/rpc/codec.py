"""Operations of the domain as messages of google.longrunning."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf import descriptor_pool
from google.protobuf.any_pb2 import Any as AnyProto
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from outlastapi.v1 import operation_metadata_pb2
from outlastapi.v1.operation_metadata_pb2 import OperationMetadata, OperationProgress

from outlast.domain.operation import Operation, Progress, State
from outlast.rpc.errors import TYPE_PREFIX, sendable, status_to_proto
from outlast.rpc.snapshots import Encoded, Snapshots

MAX_COUNT = 2**63 - 1
"""The largest number that a progress can be of."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_METADATA_NAME = OperationMetadata.DESCRIPTOR.full_name
_STATES = {state: OperationMetadata.State.Value(state.name) for state in State}


class Codec:
    """Encodes operations.

    A service's metadata is kept as it wrote it, without the part that the framework
    fills. On the wire the two are one message: in protobuf, serialised messages that
    follow one another are merged.
    """

    def __init__(self) -> None:
        self._fillers: dict[str, _Filler] = {}
        self._snapshots = Snapshots(lambda operation: self.to_proto(operation).SerializeToString())

    def to_proto(self, operation: Operation) -> operations_pb2.Operation:
        """Return a snapshot; equal records give equal bytes."""
        proto = operations_pb2.Operation(
            name=operation.name, metadata=self.metadata(operation), done=operation.done
        )
        if operation.response is not None:
            proto.response.type_url = operation.response.type_url
            proto.response.value = operation.response.value
        elif operation.error is not None:
            proto.error.CopyFrom(status_to_proto(operation.error))
        return proto

    def encoded(self, operation: Operation) -> Encoded:
        """Return an encoded snapshot, which is shared with later calls for the same state."""
        return self._snapshots.of(operation)

    def metadata(self, operation: Operation) -> AnyProto:
        """Return the metadata of a snapshot."""
        own = operation.metadata
        filler = self._fillers.get(own.type_url)
        if filler is None:
            filler = self._fillers[own.type_url] = _filler(own.type_url)
        return AnyProto(type_url=own.type_url, value=own.value + filler(operation))


_Filler = Callable[[Operation], bytes]


def _filler(type_url: str) -> _Filler:
    """Return what makes the framework's part of a metadata message of a type."""
    name = type_url.removeprefix(TYPE_PREFIX)
    if name == _METADATA_NAME:
        return lambda operation: metadata_of(operation).SerializeToString(deterministic=True)
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(name)
    except KeyError:
        return lambda _: b""
    field = metadata_field(descriptor)
    if field is None:
        return lambda _: b""
    message_class, key = GetMessageClass(descriptor), field.name
    return lambda operation: message_class(**{key: metadata_of(operation)}).SerializeToString(
        deterministic=True
    )


def metadata_of(operation: Operation) -> OperationMetadata:
    """Return the part of an operation's metadata that the framework fills."""
    progress = operation.progress
    if progress is not None and progress.estimated_end_time is not None and operation.done:
        progress = replace(progress, estimated_end_time=None)  # there is an end_time
    waits_for_retry = operation.state is State.PENDING and operation.attempt > 0
    return OperationMetadata(
        state=_STATES[operation.state],
        verb=operation.method,
        target=operation.target,
        attempt=operation.attempt,
        max_attempts=operation.max_attempts,
        progress=None if progress is None else _progress(progress),
        create_time=moment(operation.create_time),
        start_time=moment(operation.start_time),
        update_time=moment(operation.update_time),
        end_time=moment(operation.end_time),
        expire_time=moment(operation.expire_time),
        cancel_requested_time=moment(operation.cancel_requested_time),
        next_attempt_time=moment(operation.ready_time if waits_for_retry else None),
        last_error=None if operation.last_error is None else status_to_proto(operation.last_error),
        dead_letter=operation.dead_letter,
        retried_from=operation.retried_from,
    )


def moment(value: datetime | None) -> Timestamp | None:
    """Return a time as protobuf has it; several times faster than its own conversion."""
    if value is None:
        return None
    since = value - _EPOCH
    return Timestamp(seconds=since.days * 86400 + since.seconds, nanos=since.microseconds * 1000)


def metadata_field(descriptor: Any) -> FieldDescriptor | None:
    """Return the field of a metadata message that the framework fills, found by its type."""
    field: FieldDescriptor
    for field in descriptor.fields:
        if (
            field.message_type is not None
            and field.message_type.full_name == _METADATA_NAME
            and not field.is_repeated
        ):
            return field
    return None


def _progress(progress: Progress) -> OperationProgress:
    try:
        return _progress_to_proto(progress)
    except (TypeError, ValueError):  # a record of a time when reports were not checked
        return _progress_to_proto(
            Progress(
                _count(progress.completed),
                _count(progress.total),
                sendable(progress.stage),
                sendable(progress.message),
                progress.estimated_end_time,
            )
        )


def _count(number: float) -> int:
    return int(min(max(number, 0), MAX_COUNT)) if number == number else 0  # noqa: PLR0124  # NaN


def _progress_to_proto(progress: Progress) -> OperationProgress:
    return operation_metadata_pb2.OperationProgress(
        completed=progress.completed,
        total=progress.total,
        percent=progress.percent,
        stage=progress.stage,
        message=progress.message,
        estimated_end_time=moment(progress.estimated_end_time),
    )
