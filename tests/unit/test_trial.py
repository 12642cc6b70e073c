"""Who is suspected of killing its process, and whose lost attempts count."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlast.domain import transitions
from outlast.domain.operation import Lease, Operation, State
from outlast.domain.status import Code, Status
from outlast.domain.transitions import ATTEMPTS_EXHAUSTED, Released, Retry
from outlast.domain.trial import LONGEST_TRIAL, SUSPECT_FROM, is_suspect, loss_counts, trial_time

START = datetime(2026, 1, 1, tzinfo=UTC)
LEASE = timedelta(seconds=30)
ERROR = Status(Code.UNAVAILABLE, "oh")


def new(**fields) -> Operation:
    defaults = {
        "name": "operations/1",
        "parent": "",
        "method": "example.v1.Books/Print",
        "create_time": START,
        "update_time": START,
        "ready_time": START,
        "max_attempts": 3,
    }
    return Operation(**(defaults | fields))


def killed(operation: Operation, after: timedelta, lease: timedelta = LEASE) -> Operation:
    """Return a record as it is when its process has died some time after the start.

    Until then the lease was renewed every third of its length.
    """
    renewals = int(after / (lease / 3))
    started = operation.attempt_start_time
    return operation.evolve(ready_time=started + renewals * lease / 3 + lease)


def claim(operation: Operation, lease: timedelta = LEASE) -> Operation:
    return transitions.claim(operation, "worker", operation.ready_time, lease)


def lost_in_a_row(times: int, after: timedelta = timedelta(), **fields) -> Operation:
    operation = claim(new(**fields))
    for _ in range(times):
        operation = claim(killed(operation, after))
    return operation


def test_losses_in_a_row_make_a_suspect():
    records = [new(), *(lost_in_a_row(times) for times in range(4))]
    assert [it.interruptions for it in records] == [0, 0, 1, 2, 3]
    # A record that is RUNNING is asked about when its lease is lost once more.
    assert [is_suspect(it) for it in records] == [False, False, True, True, True]


def test_a_loss_counts_only_on_trial():
    operation = lost_in_a_row(0, max_attempts=9)
    attempts = []
    for _ in range(5):
        attempts.append(operation.attempt)
        operation = claim(killed(operation, timedelta()))
    assert attempts == [1, 1, 1, 2, 3]


def test_what_survives_its_trial_loses_no_attempt_and_is_on_trial_for_longer_the_next_time():
    operation = lost_in_a_row(2)
    assert not loss_counts(killed(operation, LEASE), LEASE)
    operation = claim(killed(operation, LEASE))
    assert (operation.attempt, operation.interruptions) == (1, 3)
    assert loss_counts(killed(operation, 2 * LEASE - timedelta(seconds=1)), LEASE)
    assert not loss_counts(killed(operation, 2 * LEASE), LEASE)


def test_a_trial_grows_with_every_loss_up_to_the_longest():
    assert [trial_time(it, LEASE) for it in (0, 1, 2, 3, 4)] == [
        timedelta(),
        timedelta(),
        LEASE,
        2 * LEASE,
        4 * LEASE,
    ]
    assert trial_time(100, LEASE) == trial_time(10**9, LEASE) == LONGEST_TRIAL
    assert trial_time(2, timedelta(days=365_000)) == LONGEST_TRIAL


def test_work_with_one_attempt_never_runs_twice():
    after = claim(killed(claim(new(max_attempts=1)), timedelta(hours=1)))
    assert (after.state, after.error) == (State.FAILED, ATTEMPTS_EXHAUSTED)


def test_a_failure_that_the_handler_reported_ends_the_suspicion():
    operation = lost_in_a_row(3)
    lease = Lease(operation.name, operation.lease_epoch)
    retried = transitions.finish(operation, lease, Retry(ERROR, LEASE), operation.ready_time)
    assert (retried.interruptions, is_suspect(retried)) == (0, False)
    released = transitions.finish(operation, lease, Released(), operation.ready_time)
    assert (released.interruptions, is_suspect(released)) == (3, True)


def test_what_is_to_be_cancelled_is_no_suspect_because_it_is_not_run():
    operation = transitions.request_cancel(lost_in_a_row(3), START)
    assert not is_suspect(operation)
    assert claim(operation).state is State.CANCELLED


def test_a_clock_that_went_back_makes_nobody_guilty_who_was_not_on_trial():
    operation = lost_in_a_row(SUSPECT_FROM - 1).evolve(ready_time=START - timedelta(hours=1))
    assert not loss_counts(operation, LEASE)


@given(
    st.integers(1, 8),
    st.sampled_from([0.5, 30.0, 7200.0]),
    st.floats(0, 100_000).map(lambda it: timedelta(seconds=it)),
)
def test_what_kills_its_process_every_time_comes_to_an_end(max_attempts, seconds, strikes_after):
    lease = timedelta(seconds=seconds)
    operation = claim(new(max_attempts=max_attempts), lease)
    deaths = 0
    while not operation.done:
        deaths += 1
        operation = claim(killed(operation, strikes_after, lease), lease)
    assert operation.error == ATTEMPTS_EXHAUSTED
    assert operation.dead_letter
    doublings = 13  # from half a second to an hour
    assert deaths <= SUSPECT_FROM + max_attempts + doublings


@given(st.lists(st.floats(0, 600), max_size=12))
def test_who_is_never_lost_on_trial_loses_no_attempt(survivals):
    """However often its process dies of something else."""
    operation = claim(new())
    for seconds in survivals:
        trial = trial_time(operation.interruptions, LEASE)
        if trial == LONGEST_TRIAL:
            break
        operation = claim(killed(operation, trial + LEASE + timedelta(seconds=seconds)))
        assert operation.attempt == 1


@pytest.mark.parametrize("interruptions", [2, 3, 5])
def test_a_suspect_that_dies_within_a_renewal_of_its_trial_is_still_on_it(interruptions):
    operation = claim(new()).evolve(interruptions=interruptions)
    trial = trial_time(interruptions, LEASE)
    assert loss_counts(killed(operation, trial - timedelta(microseconds=1)), LEASE)
    assert not loss_counts(killed(operation, trial), LEASE)
