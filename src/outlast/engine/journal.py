"""What the log says of operations: each event once, and nothing of their payloads."""

import logging
from datetime import timedelta

from outlast.domain.operation import Operation, State
from outlast.domain.status import Status
from outlast.domain.transitions import (
    ATTEMPTS_EXHAUSTED,
    DEADLINE_EXCEEDED,
    WORKER_LOST,
    Outcome,
    Retry,
)
from outlast.engine.outcome import AttemptFailedError

_log = logging.getLogger(__name__)

_MAX_MESSAGE = 200


def log_claimed(operation: Operation) -> None:
    """Tell of an operation that was claimed, if its last worker was lost."""
    if operation.last_error == WORKER_LOST:
        _log.warning(
            "operation %s is run again, as attempt %d of %d: its worker was lost, %d in a row",
            operation.name,
            operation.attempt,
            operation.max_attempts,
            operation.interruptions,
        )


def log_ended_by_claim(operation: Operation) -> None:
    """Tell of an operation that a claim found, and ended instead of having it run again."""
    if operation.error in (ATTEMPTS_EXHAUSTED, DEADLINE_EXCEEDED):
        _log_end(operation)


def log_step_failed(
    operation: Operation, key: str, error: Exception, pause: timedelta, tries: str
) -> None:
    """Tell of a step that failed and is tried again; `tries` says how often it was."""
    _log.info(
        "step %r of operation %s failed with %s, %s; it is tried again in %.1f s",
        *(key, operation.name),
        # What an exception that nobody meant says may be of the payload.
        _text(error.status) if isinstance(error, AttemptFailedError) else type(error).__name__,
        *(tries, pause.total_seconds()),
    )


def log_finished(operation: Operation, outcome: Outcome) -> None:
    """Tell what became of an attempt, if not what was hoped for or what a caller asked for."""
    if isinstance(outcome, Retry) and operation.state is State.PENDING:
        due = operation.ready_time.isoformat() if operation.ready_time is not None else "any time"
        _log.info(
            "attempt %d of %d of operation %s failed with %s; the next one is due at %s",
            operation.attempt,
            operation.max_attempts,
            operation.name,
            _text(outcome.error),
            due,
        )
    else:
        _log_end(operation)


def _log_end(operation: Operation) -> None:
    if operation.error is None:
        return
    if operation.dead_letter:
        _log.warning(
            "operation %s is a dead letter: attempt %d of %d failed with %s",
            operation.name,
            operation.attempt,
            operation.max_attempts,
            _text(operation.error),
        )
    elif operation.error == DEADLINE_EXCEEDED:
        _log.info(
            "operation %s did not end within its time limit: attempt %d of %d was its last",
            operation.name,
            operation.attempt,
            operation.max_attempts,
        )


def _text(status: Status) -> str:
    """Return a status in one line, whatever its message is."""
    message = status.message
    if len(message) > _MAX_MESSAGE:
        message = message[: _MAX_MESSAGE - 1] + "…"
    return f"{status.code.name}, {message!r}"
