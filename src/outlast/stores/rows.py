"""Operations as rows of the `operations` table, and back."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from outlast.domain.json_codec import (
    progress_from_json,
    progress_to_json,
    status_from_json,
    status_to_json,
)
from outlast.domain.operation import Attempt, AttemptOutcome, Operation, State
from outlast.domain.status import Payload

Row = Sequence[Any]

FIXED_COLUMNS = (
    "name", "parent", "method", "create_time", "principal", "request_digest", "target",
    "exclusive_key", "max_attempts", "timeout", "retention", "retried_from",
)  # fmt: skip
CHANGING_COLUMNS = (
    "state", "revision", "attempt", "interruptions", "lease_epoch", "ready_time", "worker",
    "update_time", "start_time", "attempt_start_time", "deadline", "end_time", "expire_time",
    "cancel_requested_time", "dead_letter", "progress", "metadata_type",
    "metadata_value", "last_error", "error", "response_type", "response_value",
)  # fmt: skip
HIDING_COLUMNS = ("request_id", "deleted")
"""Written on their own when an operation is deleted: indexes are made over them."""
COLUMNS = (*FIXED_COLUMNS, *CHANGING_COLUMNS, *HIDING_COLUMNS)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_STATES = {state.value: state for state in State}


def to_micros(moment: datetime | None) -> int | None:
    """Return microseconds since 1970."""
    return None if moment is None else (moment - EPOCH) // _MICROSECOND


def from_micros(micros: int | None) -> datetime | None:
    """Return the time that is so many microseconds after 1970."""
    return None if micros is None else EPOCH + timedelta(0, 0, micros)


def fixed_values(operation: Operation) -> Row:
    """Return the values of FIXED_COLUMNS."""
    return (
        operation.name,
        operation.parent,
        operation.method,
        to_micros(operation.create_time),
        operation.principal,
        operation.request_digest,
        operation.target,
        operation.exclusive_key,
        operation.max_attempts,
        None if operation.timeout is None else operation.timeout // _MICROSECOND,
        operation.retention // _MICROSECOND,
        operation.retried_from,
    )


def changing_values(operation: Operation) -> Row:
    """Return the values of CHANGING_COLUMNS."""
    progress, last_error, error = operation.progress, operation.last_error, operation.error
    response = operation.response
    return (
        operation.state.value,
        operation.revision,
        operation.attempt,
        operation.interruptions,
        operation.lease_epoch,
        to_micros(operation.ready_time),
        operation.worker,
        to_micros(operation.update_time),
        to_micros(operation.start_time),
        to_micros(operation.attempt_start_time),
        to_micros(operation.deadline),
        to_micros(operation.end_time),
        to_micros(operation.expire_time),
        to_micros(operation.cancel_requested_time),
        operation.dead_letter,
        None if progress is None else progress_to_json(progress),
        operation.metadata.type_url,
        operation.metadata.value,
        None if last_error is None else status_to_json(last_error),
        None if error is None else status_to_json(error),
        None if response is None else response.type_url,
        None if response is None else response.value,
    )


def all_values(operation: Operation) -> Row:
    """Return the values of COLUMNS."""
    return (
        *fixed_values(operation),
        *changing_values(operation),
        *hiding_values(operation),
    )


def hiding_values(operation: Operation) -> Row:
    """Return the values of HIDING_COLUMNS."""
    return operation.request_id, operation.deleted


def operation_from_row(row: Row) -> Operation:
    """Read the values of COLUMNS back."""
    (
        name, parent, method, create_time, principal, request_digest, target,
        exclusive_key, max_attempts, timeout, retention, retried_from,
        state, revision, attempt, interruptions, lease_epoch, ready_time, worker,
        update_time, start_time, attempt_start_time, deadline, end_time, expire_time,
        cancel_requested_time, dead_letter, progress, metadata_type,
        metadata_value, last_error, error, response_type, response_value,
        request_id, deleted,
    ) = row  # fmt: skip
    operation = object.__new__(Operation)  # as Operation.evolve does, and for its reason
    operation.__dict__.update(
        name=name,
        parent=parent,
        method=method,
        create_time=from_micros(create_time),
        principal=principal,
        request_id=request_id,
        request_digest=request_digest,
        target=target,
        exclusive_key=exclusive_key,
        max_attempts=max_attempts,
        timeout=None if timeout is None else timedelta(0, 0, timeout),
        retention=timedelta(0, 0, retention),
        retried_from=retried_from,
        state=_STATES[state],
        revision=revision,
        attempt=attempt,
        interruptions=interruptions,
        lease_epoch=lease_epoch,
        ready_time=from_micros(ready_time),
        worker=worker,
        update_time=from_micros(update_time),
        start_time=from_micros(start_time),
        attempt_start_time=from_micros(attempt_start_time),
        deadline=from_micros(deadline),
        end_time=from_micros(end_time),
        expire_time=from_micros(expire_time),
        cancel_requested_time=from_micros(cancel_requested_time),
        dead_letter=bool(dead_letter),
        deleted=bool(deleted),
        progress=None if progress is None else progress_from_json(progress),
        metadata=Payload(metadata_type, metadata_value),
        last_error=None if last_error is None else status_from_json(last_error),
        error=None if error is None else status_from_json(error),
        response=None if response_type is None else Payload(response_type, response_value),
    )
    return operation


def attempt_values(attempt: Attempt) -> Row:
    """Return the values of an attempt's row, after the operation's id."""
    return (
        attempt.epoch,
        attempt.number,
        attempt.worker,
        to_micros(attempt.start_time),
        to_micros(attempt.end_time),
        attempt.outcome.value,
        None if attempt.error is None else status_to_json(attempt.error),
        attempt.counted,
    )


def attempt_from_row(row: Row) -> Attempt:
    """Read an attempt back."""
    epoch, number, worker, start_time, end_time, outcome, error, counted = row
    return Attempt(
        number,
        epoch,
        worker,
        EPOCH + timedelta(microseconds=start_time),
        EPOCH + timedelta(microseconds=end_time),
        AttemptOutcome(outcome),
        None if error is None else status_from_json(error),
        bool(counted),
    )
