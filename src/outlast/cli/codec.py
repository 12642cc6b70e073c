"""Operations as they come over the wire, turned into snapshots."""

from collections import deque
from datetime import UTC, datetime

from google.longrunning.operations_pb2 import Operation
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from outlastapi.v1.operation_metadata_pb2 import OperationMetadata, OperationProgress
from outlastapi.v1.operations_admin_pb2 import OperationAttempt

from outlast.cli.messages import to_json, unpack
from outlast.cli.snapshot import UNFINISHED, Attempt, Json, Progress, Snapshot
from outlast.cli.status import describe
from outlast.domain.operation import AttemptOutcome, State
from outlast.domain.status import Code

_Path = tuple[str, ...]
"""The names of fields in JSON, from the outside in."""

_MAX_SEARCHED = 100
"""How many messages inside the metadata are looked at for the state of an operation."""


def snapshot_of(operation: Operation, types: DescriptorPool) -> Snapshot:
    """Return what an operation says, read with the given types."""
    metadata, path = _operation_metadata(operation, types)
    document = to_json(operation, types)
    return Snapshot(
        name=operation.name,
        done=operation.done,
        document=document,
        own_metadata=_without(document.get("metadata", {}), path),
        state=_state(operation, metadata),
        verb=metadata.verb,
        target=metadata.target,
        progress=_progress(metadata.progress) if metadata.HasField("progress") else None,
        create_time=_time(metadata, "create_time"),
        start_time=_time(metadata, "start_time"),
        update_time=_time(metadata, "update_time"),
        end_time=_time(metadata, "end_time"),
        expire_time=_time(metadata, "expire_time"),
        cancel_requested_time=_time(metadata, "cancel_requested_time"),
        attempt=metadata.attempt,
        max_attempts=metadata.max_attempts,
        next_attempt_time=_time(metadata, "next_attempt_time"),
        last_error=describe(metadata.last_error) if metadata.HasField("last_error") else None,
        dead_letter=metadata.dead_letter,
        retried_from=metadata.retried_from,
        error=describe(operation.error) if operation.HasField("error") else None,
    )


def attempt_of(attempt: OperationAttempt, types: DescriptorPool) -> Attempt:
    """Return what a server says of an attempt."""
    return Attempt(
        number=attempt.attempt,
        outcome=_OUTCOMES.get(attempt.outcome, UNFINISHED),
        worker=attempt.worker,
        document=to_json(attempt, types),
        start_time=_time(attempt, "start_time"),
        end_time=_time(attempt, "end_time"),
        error=describe(attempt.error) if attempt.HasField("error") else None,
        counted=attempt.counted,
    )


def _operation_metadata(
    operation: Operation, types: DescriptorPool
) -> tuple[OperationMetadata, _Path | None]:
    """Return the message that says how the operation stands, and where in the metadata it is.

    It may be the metadata itself or anywhere inside it, as the service chose. If there
    is none it is empty, and nowhere.
    """
    metadata = unpack(operation.metadata, types)
    nearest: deque[tuple[Message, _Path]] = deque([(metadata, ())] if metadata is not None else [])
    searched = 0
    while nearest and searched < _MAX_SEARCHED:
        message, path = nearest.popleft()
        searched += 1
        if message.DESCRIPTOR.full_name == OperationMetadata.DESCRIPTOR.full_name:
            # The server's class of that name is not ours; the bytes are the same.
            return OperationMetadata.FromString(message.SerializeToString()), path
        nearest.extend(
            (value, (*path, field.json_name))
            for field, value in message.ListFields()
            if isinstance(value, Message)
        )
    return OperationMetadata(), None


def _without(document: Json, path: _Path | None) -> Json:
    """Return what JSON has besides what is at a path, and besides its type if that is all."""
    if path is None:
        return document
    if not path:
        return {}
    key, *inner = path
    rest = {name: value for name, value in document.items() if name != key}
    if inner and isinstance(document.get(key), dict):
        kept = _without(document[key], tuple(inner))
        rest |= {key: kept} if kept else {}
    return rest if rest.keys() - {"@type"} else {}


def _state(operation: Operation, metadata: OperationMetadata) -> str:
    if metadata.state:
        return _STATES.get(metadata.state, UNFINISHED)
    if not operation.done:
        return UNFINISHED
    if not operation.HasField("error"):
        return State.SUCCEEDED
    return State.CANCELLED if operation.error.code == Code.CANCELLED else State.FAILED


_OUTCOMES = {OperationAttempt.Outcome.Value(each.name): each.value for each in AttemptOutcome}
_STATES = {
    OperationMetadata.PENDING: State.PENDING,
    OperationMetadata.RUNNING: State.RUNNING,
    OperationMetadata.SUCCEEDED: State.SUCCEEDED,
    OperationMetadata.FAILED: State.FAILED,
    OperationMetadata.CANCELLED: State.CANCELLED,
}


def _progress(progress: OperationProgress) -> Progress:
    return Progress(
        completed=progress.completed,
        total=progress.total,
        percent=progress.percent,
        stage=progress.stage,
        message=progress.message,
        estimated_end_time=_time(progress, "estimated_end_time"),
    )


def _time(message: Message, field: str) -> datetime | None:
    if not message.HasField(field):
        return None
    timestamp: Timestamp = getattr(message, field)
    try:
        return timestamp.ToDatetime(UTC)
    except (ValueError, OverflowError):  # not a time that there is
        return None
