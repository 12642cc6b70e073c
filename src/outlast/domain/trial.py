"""Trials: how an operation that kills its process is told from its neighbours.

When a process dies, every lease that it held is lost, and nothing says whose fault
that was. So the first losses in a row are forgiven. After them an operation is a
suspect: it runs on trial, and a worker has one of those at a time. If its lease is
lost again on trial, the attempt counts; what survives its trial runs on unsuspected.
Each loss makes the next trial twice as long, for work that takes its time to kill.
"""

from datetime import timedelta

from outlast.domain.operation import Operation, State

SUSPECT_FROM = 2
"""How often in a row a suspect has lost its lease, or more often."""

LONGEST_TRIAL = timedelta(hours=1)
"""What a trial does not grow beyond. A loss after so many of them counts in any case."""

_MAX_DOUBLINGS = 64


def is_suspect(operation: Operation) -> bool:
    """Whether a claim puts the operation on trial. What a claim is to cancel is none."""
    losses = operation.interruptions + (operation.state is State.RUNNING)
    return losses >= SUSPECT_FROM and operation.cancel_requested_time is None


def trial_time(interruptions: int, lease: timedelta) -> timedelta:
    """Return how long an attempt is on trial from its start; zero unless it is a suspect's."""
    doublings = interruptions - SUSPECT_FROM
    if doublings < 0:
        return timedelta()
    seconds = lease.total_seconds() * 2.0 ** min(doublings, _MAX_DOUBLINGS)
    return timedelta(seconds=min(seconds, LONGEST_TRIAL.total_seconds()))


def loss_counts(operation: Operation, lease: timedelta) -> bool:
    """Whether an attempt that lost its lease, of the given length, counts.

    It does if it was on trial: as far as its last renewal tells, it did not survive
    that. One whose trials cannot grow any more is not let off for surviving, and work
    with a single attempt never runs twice.
    """
    if operation.max_attempts == 1:
        return True
    trial = trial_time(operation.interruptions, lease)
    return trial == LONGEST_TRIAL or _survived(operation, lease) < trial


def _survived(operation: Operation, lease: timedelta) -> timedelta:
    """Return how long after its start an attempt has renewed its lease last."""
    if operation.ready_time is None or operation.attempt_start_time is None:
        return timedelta()
    return max(timedelta(), operation.ready_time - lease - operation.attempt_start_time)
