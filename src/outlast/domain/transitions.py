"""How an operation changes: pure functions from one record to the next.

Stores call them on the record that is current under their lock, and write what
comes back. `now` is the store's clock; a clock that went back never makes a
record's times run backwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from outlast.domain.errors import LeaseLostError, NotRedrivableError
from outlast.domain.names import operation_name
from outlast.domain.operation import Attempt, AttemptOutcome, Lease, Operation, Progress, State
from outlast.domain.status import Code, Payload, Status
from outlast.domain.trial import loss_counts


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The handler returned a response."""

    response: Payload


@dataclass(frozen=True, slots=True)
class Failed:
    """The operation ends with an error."""

    error: Status
    dead_letter: bool = False


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The handler has stopped because it was asked to."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The attempt failed; another one is due after a delay, unless it was the last."""

    error: Status
    delay: timedelta


@dataclass(frozen=True, slots=True)
class Released:
    """The worker stops and gives the operation back; the attempt does not count.

    It leaves no trace in the history either: the next claim begins it anew.
    """


Outcome = Succeeded | Failed | Cancelled | Retry | Released

CANCELLED = Status(Code.CANCELLED, "the operation was cancelled", reason="OPERATION_CANCELLED")
DEADLINE_EXCEEDED = Status(
    Code.DEADLINE_EXCEEDED,
    "the operation did not end within its time limit",
    reason="OPERATION_TIMED_OUT",
)
WORKER_LOST = Status(
    Code.ABORTED, "the worker that ran this attempt was lost", reason="WORKER_LOST"
)
ATTEMPTS_EXHAUSTED = Status(
    Code.ABORTED,
    "the worker was lost in the last attempt that the operation had",
    reason="WORKER_LOST",
)

REDRIVABLE = frozenset({State.FAILED, State.CANCELLED})
"""How an operation must have ended for its work to be done again."""


def claim(operation: Operation, worker: str, now: datetime, lease: timedelta) -> Operation:
    """Give a ready operation to a worker, or end it if it must not run again.

    An operation whose lease ran out ends here when it was asked to stop, or when
    the lost attempt counts and was its last; one past its deadline ends as well.
    """
    ended = reap(operation, now)
    if ended.done:
        return ended
    lost = operation.state is State.RUNNING
    counted = not lost or loss_counts(operation, lease)
    if lost and counted and operation.attempt >= operation.max_attempts:
        return _end(
            operation,
            State.FAILED,
            now,
            error=ATTEMPTS_EXHAUSTED,
            last_error=WORKER_LOST,
            dead_letter=True,
        )
    moment = _not_before(operation, now)
    start_time = operation.start_time or moment
    deadline = operation.deadline
    if deadline is None and operation.timeout is not None:
        deadline = start_time + operation.timeout
    return operation.evolve(
        state=State.RUNNING,
        revision=operation.revision + 1,
        attempt=operation.attempt + counted,
        interruptions=operation.interruptions + lost,
        lease_epoch=operation.lease_epoch + 1,
        ready_time=now + lease,
        worker=worker,
        update_time=moment,
        start_time=start_time,
        attempt_start_time=moment,
        deadline=deadline,
        last_error=WORKER_LOST if lost else operation.last_error,
    )


def reap(operation: Operation, now: datetime) -> Operation:
    """End a ready operation that was asked to stop or is past its deadline; others stay."""
    if operation.cancel_requested_time is not None:
        return _end(operation, State.CANCELLED, now, error=CANCELLED)
    if operation.deadline is not None and operation.deadline <= now:
        return _end(
            operation, State.FAILED, now, error=DEADLINE_EXCEEDED, last_error=DEADLINE_EXCEEDED
        )
    return operation


def renew(operation: Operation, lease: Lease, now: datetime, duration: timedelta) -> Operation:
    """Keep a lease for another while. Nothing that a reader sees changes."""
    require_owner(operation, lease)
    return operation.evolve(ready_time=now + duration)


def report(
    operation: Operation, lease: Lease, progress: Progress | None, metadata: Payload, now: datetime
) -> Operation:
    """Record how far the work is; without a progress the last one stays."""
    require_owner(operation, lease)
    return operation.evolve(
        revision=operation.revision + 1,
        update_time=_not_before(operation, now),
        progress=progress if progress is not None else operation.progress,
        metadata=metadata,
    )


def finish(operation: Operation, lease: Lease, outcome: Outcome, now: datetime) -> Operation:
    """End the attempt, and the operation unless the outcome is another try."""
    require_owner(operation, lease)
    match outcome:
        case Succeeded(response):
            return _end(operation, State.SUCCEEDED, now, response=response)
        case Failed(error, dead_letter):
            return _end(
                operation,
                State.FAILED,
                now,
                error=error,
                last_error=error,
                dead_letter=dead_letter,
            )
        case Cancelled():
            return _end(operation, State.CANCELLED, now, error=CANCELLED)
        case Retry() | Released() if operation.cancel_requested_time is not None:
            return _end(operation, State.CANCELLED, now, error=CANCELLED)
        case Retry(error) if operation.attempt >= operation.max_attempts:
            return _end(
                operation, State.FAILED, now, error=error, last_error=error, dead_letter=True
            )
        case Retry(error, delay):
            due_time = now + delay
            if operation.deadline is not None and operation.deadline <= due_time:
                return _end(operation, State.FAILED, now, error=DEADLINE_EXCEEDED, last_error=error)
            return _wait(operation, now, due_time, last_error=error, interruptions=0)
        case Released():
            return _wait(
                operation, now, now, attempt=operation.attempt - 1, attempt_start_time=None
            )
        case unreachable:
            assert_never(unreachable)


def request_cancel(operation: Operation, now: datetime) -> Operation:
    """Ask an operation to stop; one that waits ends at once, a finished one stays as it is."""
    if operation.done or operation.cancel_requested_time is not None:
        return operation
    moment = _not_before(operation, now)
    asked = operation.evolve(
        revision=operation.revision + 1, update_time=moment, cancel_requested_time=moment
    )
    if operation.state is State.PENDING:
        return _end(asked, State.CANCELLED, now, error=CANCELLED)
    return asked


def delete(operation: Operation) -> Operation:
    """Hide an operation and free its request_id; the work goes on."""
    return operation.evolve(revision=operation.revision + 1, deleted=True, request_id="")


def redrive(operation: Operation, operation_id: str, now: datetime) -> Operation:
    """Return a new operation that does the work of one that failed or was cancelled again.

    It begins anew, by the rules of the old one and with what the service kept in its
    metadata. Raises NotRedrivableError.
    """
    if operation.state not in REDRIVABLE:
        raise NotRedrivableError(operation.name, operation.state)
    return Operation(
        name=operation_name(operation.parent, operation_id),
        parent=operation.parent,
        method=operation.method,
        create_time=now,
        update_time=now,
        ready_time=now,
        principal=operation.principal,
        target=operation.target,
        exclusive_key=operation.exclusive_key,
        max_attempts=operation.max_attempts,
        timeout=operation.timeout,
        retention=operation.retention,
        retried_from=operation.name,
        metadata=operation.metadata,
    )


def expired(operation: Operation, now: datetime) -> bool:
    """Whether a finished operation's time to be kept is over."""
    return operation.expire_time is not None and operation.expire_time <= now


def visible(operation: Operation, now: datetime) -> bool:
    """Whether readers may see the operation."""
    return not operation.deleted and not expired(operation, now)


def ended_attempt(before: Operation, after: Operation) -> Attempt | None:
    """Return the attempt to keep in the history when a change ends one that is not the last.

    The last attempt of a finished operation is in its record; see `current_attempt`.
    """
    if before.state is not State.RUNNING or before.attempt_start_time is None:
        return None
    counted = True
    if after.lease_epoch > before.lease_epoch or after.error is ATTEMPTS_EXHAUSTED:
        outcome, error = AttemptOutcome.LOST, WORKER_LOST
        counted = after.done or after.attempt > before.attempt
    elif after.state is State.PENDING and after.attempt == before.attempt:
        outcome, error = AttemptOutcome.FAILED, after.last_error or WORKER_LOST
    else:
        return None
    return Attempt(
        before.attempt,
        before.lease_epoch,
        before.worker,
        before.attempt_start_time,
        after.update_time,
        outcome,
        error,
        counted,
    )


def attempts(past: Sequence[Attempt], operation: Operation) -> Sequence[Attempt]:
    """Return every attempt of an operation, given those of its history, the oldest first."""
    current = current_attempt(operation)
    if current is None or (past and past[-1].epoch == current.epoch):
        return list(past)
    return [*past, current]


_ATTEMPT_OUTCOMES = {
    State.RUNNING: AttemptOutcome.RUNNING,
    State.SUCCEEDED: AttemptOutcome.SUCCEEDED,
    State.FAILED: AttemptOutcome.FAILED,
    State.CANCELLED: AttemptOutcome.CANCELLED,
}


def current_attempt(operation: Operation) -> Attempt | None:
    """Return the attempt that runs, or that ended the operation; None while it waits."""
    outcome = _ATTEMPT_OUTCOMES.get(operation.state)
    if outcome is None or operation.attempt_start_time is None:
        return None
    return Attempt(
        operation.attempt,
        operation.lease_epoch,
        operation.worker,
        operation.attempt_start_time,
        operation.end_time,
        outcome,
        operation.error,
    )


def require_owner(operation: Operation, lease: Lease) -> None:
    """Raise LeaseLostError unless the lease is the one that the operation is held by."""
    if operation.state is not State.RUNNING or operation.lease_epoch != lease.epoch:
        raise LeaseLostError(lease.name, lease.epoch)


def _not_before(operation: Operation, now: datetime) -> datetime:
    return max(now, operation.update_time)


def _wait(operation: Operation, now: datetime, due_time: datetime, **changes: object) -> Operation:
    return operation.evolve(
        state=State.PENDING,
        revision=operation.revision + 1,
        ready_time=due_time,
        update_time=_not_before(operation, now),
        **changes,
    )


def _end(operation: Operation, state: State, now: datetime, **result: object) -> Operation:
    moment = _not_before(operation, now)
    return operation.evolve(
        state=state,
        revision=operation.revision + 1,
        ready_time=None,
        update_time=moment,
        end_time=moment,
        expire_time=moment + operation.retention,
        **result,
    )
