"""Properties of the pure transitions, over every history that one operation can have."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from outlast.domain import transitions
from outlast.domain.errors import LeaseLostError
from outlast.domain.operation import (
    AttemptOutcome,
    Lease,
    Operation,
    Progress,
    State,
)
from outlast.domain.status import Code, Payload, Status
from outlast.domain.transitions import (
    ATTEMPTS_EXHAUSTED,
    CANCELLED,
    DEADLINE_EXCEEDED,
    WORKER_LOST,
    Cancelled,
    Failed,
    Outcome,
    Released,
    Retry,
    Succeeded,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
LEASE = timedelta(seconds=10)
ERROR = Status(Code.UNAVAILABLE, "oh")
RESPONSE = Payload("example.v1.Book", b"\x01")
SECOND = timedelta(seconds=1)

READER_FIELDS = set(Operation.__dataclass_fields__) - {"ready_time", "lease_epoch", "worker"}
"""What a reader can see, of a record that is not hidden."""
FIXED_FIELDS = {
    "name",
    "parent",
    "method",
    "create_time",
    "principal",
    "request_digest",
    "target",
    "exclusive_key",
    "max_attempts",
    "timeout",
    "retention",
    "retried_from",
}


def new(**fields) -> Operation:
    defaults = {
        "name": "operations/1",
        "parent": "",
        "method": "example.v1.Books/Print",
        "create_time": START,
        "update_time": START,
        "ready_time": START,
        "request_id": "r",
        "max_attempts": 3,
        "retention": timedelta(hours=1),
    }
    return Operation(**(defaults | fields))


def running(**fields) -> Operation:
    return transitions.claim(new(**fields), "worker-1", START, LEASE)


def lease_of(operation: Operation) -> Lease:
    return Lease(operation.name, operation.lease_epoch)


def finished(operation: Operation, outcome: Outcome, now: datetime = START) -> Operation:
    return transitions.finish(operation, lease_of(operation), outcome, now)


@dataclass(frozen=True)
class Event:
    """Something that a store does to a record, some time after the event before."""

    name: str
    seconds: int
    apply: Callable[[Operation, datetime], Operation]

    def __repr__(self) -> str:
        return f"{self.name} {self.seconds:+} s"


def _claim(operation: Operation, now: datetime) -> Operation:
    if operation.ready_time is None or operation.ready_time > now:
        return operation
    return transitions.claim(operation, "worker-2", now, LEASE)


def _under_lease(write: Callable[[Operation, Lease, datetime], Operation]):
    def apply(operation: Operation, now: datetime) -> Operation:
        if operation.state is not State.RUNNING:
            with pytest.raises(LeaseLostError):
                write(operation, lease_of(operation), now)
            return operation
        with pytest.raises(LeaseLostError):
            write(operation, Lease(operation.name, operation.lease_epoch - 1), now)
        return write(operation, lease_of(operation), now)

    return apply


def _finish(outcome: Outcome):
    return _under_lease(lambda it, lease, now: transitions.finish(it, lease, outcome, now))


_report = _under_lease(
    lambda it, lease, now: transitions.report(it, lease, Progress(1, 2), RESPONSE, now)
)
_renew = _under_lease(lambda it, lease, now: transitions.renew(it, lease, now, LEASE))
_ENDS = {
    "succeed": _finish(Succeeded(RESPONSE)),
    "fail": _finish(Failed(ERROR)),
    "die": _finish(Failed(ERROR, dead_letter=True)),
    "stop": _finish(Cancelled()),
}
_EVENTS = {
    "claim": _claim,
    "renew": _renew,
    "report": _report,
    "retry": _finish(Retry(ERROR, 2 * SECOND)),
    "release": _finish(Released()),
    "cancel": transitions.request_cancel,
}

_seconds = st.sampled_from([-20, -1, 0, 0, 1, 3, 12])
_histories = st.lists(
    st.builds(
        lambda name, seconds: Event(name, seconds, (_EVENTS | _ENDS)[name]),
        # Mostly what goes on, so that histories become long.
        st.sampled_from([*_EVENTS, *_EVENTS, "claim", "claim", "claim", *_ENDS]),
        _seconds,
    ),
    max_size=25,
)
_operations = st.builds(
    new,
    max_attempts=st.integers(1, 4),
    timeout=st.none() | st.sampled_from([5, 30]).map(lambda it: it * SECOND),
    retention=st.sampled_from([0, 60]).map(lambda it: it * SECOND),
)


def changes(operation: Operation, history: list[Event]):
    """Yield each record of a history with the one before it, and the time."""
    now = START
    for event in history:
        now += timedelta(seconds=event.seconds)
        before, operation = operation, event.apply(operation, now)
        yield event, before, operation, now


@given(_operations, _histories)
def test_done_is_final(operation, history):
    for _, before, after, _ in changes(operation, history):
        if before.done:
            assert after is before


@given(_operations, _histories)
def test_the_revision_grows_with_every_change_that_a_reader_sees(operation, history):
    for _, before, after, _ in changes(operation, history):
        seen = any(getattr(before, it) != getattr(after, it) for it in READER_FIELDS)
        assert (after.revision > before.revision) == seen


@given(_operations, _histories)
def test_the_epoch_grows_by_one_with_every_claim_that_gives_and_never_else(operation, history):
    for event, before, after, _ in changes(operation, history):
        given_away = event.name == "claim" and after is not before and not after.done
        assert after.lease_epoch == before.lease_epoch + given_away


@given(_operations, _histories)
def test_attempts_never_exceed_their_maximum(operation, history):
    for _, _, after, _ in changes(operation, history):
        assert 0 <= after.attempt <= after.max_attempts


@given(_operations, _histories)
def test_times_never_run_backwards(operation, history):
    for _, before, after, _ in changes(operation, history):
        assert after.update_time >= before.update_time
        assert after.start_time is None or after.start_time >= after.create_time
        if after.end_time is not None:
            assert after.end_time == after.update_time
            assert after.end_time >= (after.start_time or after.create_time)
            assert after.expire_time == after.end_time + after.retention


@given(_operations, _histories)
def test_what_an_operation_is_never_changes(operation, history):
    for _, before, after, _ in changes(operation, history):
        assert all(getattr(before, it) == getattr(after, it) for it in FIXED_FIELDS)


@given(_operations, _histories)
def test_the_result_fits_the_state(operation, history):
    for _, _, after, _ in changes(operation, history):
        assert (after.response is not None) == (after.state is State.SUCCEEDED)
        assert (after.error is not None) == (after.state in {State.FAILED, State.CANCELLED})
        assert (after.end_time is not None) == after.done
        assert (after.expire_time is not None) == after.done
        assert (after.ready_time is None) == after.done
        assert not after.dead_letter or after.state is State.FAILED


@given(_operations, _histories)
def test_what_is_asked_to_stop_never_waits(operation, history):
    for _, _, after, _ in changes(operation, history):
        assert after.cancel_requested_time is None or after.state is not State.PENDING


@given(_operations, _histories)
def test_a_record_is_never_changed_in_place(operation, history):
    for event, before, _, now in changes(operation, history):
        snapshot = dict(vars(before))
        event.apply(before, now)
        assert vars(before) == snapshot


@given(_operations, _histories)
def test_the_history_numbers_each_attempt_that_counts_once_and_in_order(operation, history):
    past = []
    last = operation
    for _, before, last, _ in changes(operation, history):
        ended = transitions.ended_attempt(before, last)
        if ended is not None:
            assert ended.start_time == before.attempt_start_time
            assert ended.worker == before.worker
            assert ended.end_time == last.update_time
            past.append(ended)
    attempts = transitions.attempts(past, last)
    numbers = [it.number for it in attempts if it.counted]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) == last.attempt
    epochs = [it.epoch for it in attempts]
    assert epochs == sorted(set(epochs))
    for lost, following in pairwise(attempts):
        assert following.number == lost.number + lost.counted


@given(_operations, _histories, st.booleans())
def test_deleting_hides_and_nothing_brings_it_back(operation, history, early):
    records = [operation, *(after for _, _, after, _ in changes(operation, history))]
    hidden = transitions.delete(records[0] if early else records[-1])
    assert hidden.revision == records[0 if early else -1].revision + 1
    for _, _, after, now in changes(hidden, history):
        assert after.deleted
        assert after.request_id == ""
        assert not transitions.visible(after, now)


@given(_operations, _histories)
def test_only_what_is_done_expires(operation, history):
    for _, _, after, now in changes(operation, history):
        assert not transitions.expired(after, now) or after.done
        if after.expire_time is not None:
            assert not transitions.expired(after, after.expire_time - timedelta(microseconds=1))
            assert transitions.expired(after, after.expire_time)
            assert not transitions.visible(after, after.expire_time)


def test_a_claim_starts_the_work():
    operation = new(timeout=30 * SECOND)
    now = START + SECOND
    assert transitions.claim(operation, "worker-1", now, LEASE) == operation.evolve(
        state=State.RUNNING,
        revision=2,
        attempt=1,
        lease_epoch=1,
        ready_time=now + LEASE,
        worker="worker-1",
        update_time=now,
        start_time=now,
        attempt_start_time=now,
        deadline=now + 30 * SECOND,
    )


def test_a_second_attempt_keeps_the_start_and_the_deadline():
    first = running(timeout=30 * SECOND)
    second = transitions.claim(first, "worker-2", START + LEASE, LEASE)
    assert second.attempt == 1
    assert second.interruptions == 1
    assert second.worker == "worker-2"
    assert second.start_time == START
    assert second.attempt_start_time == START + LEASE
    assert second.deadline == first.deadline
    assert second.last_error == WORKER_LOST


def test_a_claim_after_a_failure_keeps_its_error():
    waiting = finished(running(), Retry(ERROR, SECOND))
    assert transitions.claim(waiting, "worker-2", START + SECOND, LEASE).last_error == ERROR


def test_a_claim_ends_what_lost_its_last_attempt():
    after = transitions.claim(running(max_attempts=1), "worker-2", START + LEASE, LEASE)
    assert (after.state, after.error, after.last_error, after.dead_letter, after.attempt) == (
        State.FAILED,
        ATTEMPTS_EXHAUSTED,
        WORKER_LOST,
        True,
        1,
    )


def test_a_claim_cancels_what_was_to_stop_when_its_worker_was_lost():
    asked = transitions.request_cancel(running(max_attempts=1), START)
    after = transitions.claim(asked, "worker-2", START + LEASE, LEASE)
    assert (after.state, after.error, after.dead_letter) == (State.CANCELLED, CANCELLED, False)


@pytest.mark.parametrize(
    "operation", [running(timeout=LEASE, max_attempts=1), running(timeout=LEASE)]
)
def test_a_claim_ends_what_is_past_its_deadline(operation):
    after = transitions.claim(operation, "worker-2", START + LEASE, LEASE)
    assert (after.state, after.error, after.dead_letter) == (
        State.FAILED,
        DEADLINE_EXCEEDED,
        False,
    )


def test_a_renewal_changes_the_lease_alone():
    operation = running()
    renewed = transitions.renew(operation, lease_of(operation), START + SECOND, LEASE)
    assert renewed == operation.evolve(ready_time=START + SECOND + LEASE)


def test_a_report_without_progress_keeps_the_last_one():
    operation = running()
    lease = lease_of(operation)
    first = transitions.report(operation, lease, Progress(1, 2), RESPONSE, START)
    second = transitions.report(first, lease, None, Payload("m"), START)
    assert second.progress == Progress(1, 2)
    assert second.metadata == Payload("m")


@pytest.mark.parametrize(
    ("outcome", "result"),
    [
        (Succeeded(RESPONSE), (State.SUCCEEDED, None, RESPONSE, False)),
        (Failed(ERROR), (State.FAILED, ERROR, None, False)),
        (Failed(ERROR, dead_letter=True), (State.FAILED, ERROR, None, True)),
        (Cancelled(), (State.CANCELLED, CANCELLED, None, False)),
    ],
)
@pytest.mark.parametrize("asked", [False, True])
def test_an_outcome_that_ends_wins_over_a_request_to_stop(outcome, result, asked):
    operation = running()
    if asked:
        operation = transitions.request_cancel(operation, START)
    after = finished(operation, outcome, START + SECOND)
    assert (after.state, after.error, after.response, after.dead_letter) == result
    assert after.end_time == START + SECOND
    assert after.expire_time == START + SECOND + timedelta(hours=1)


@pytest.mark.parametrize("outcome", [Retry(ERROR, SECOND), Released()], ids=["retry", "released"])
def test_a_pause_of_what_was_to_stop_is_its_end(outcome):
    after = finished(transitions.request_cancel(running(), START), outcome)
    assert (after.state, after.error) == (State.CANCELLED, CANCELLED)


def test_a_retry_waits_for_its_delay():
    after = finished(running(), Retry(ERROR, 5 * SECOND), START + SECOND)
    assert (after.state, after.ready_time, after.attempt, after.last_error, after.error) == (
        State.PENDING,
        START + 6 * SECOND,
        1,
        ERROR,
        None,
    )


def test_a_retry_of_the_last_attempt_is_a_dead_letter():
    after = finished(running(max_attempts=1), Retry(ERROR, SECOND))
    assert (after.state, after.error, after.dead_letter) == (State.FAILED, ERROR, True)


@pytest.mark.parametrize(("delay", "state"), [(29, State.PENDING), (30, State.FAILED)])
def test_a_retry_that_would_be_past_the_deadline_is_the_end(delay, state):
    after = finished(running(timeout=30 * SECOND), Retry(ERROR, delay * SECOND))
    assert after.state is state
    assert after.last_error == ERROR
    assert after.error == (DEADLINE_EXCEEDED if after.done else None)


def test_a_released_attempt_does_not_count():
    after = finished(running(), Released(), START + SECOND)
    assert (after.state, after.attempt, after.ready_time) == (State.PENDING, 0, START + SECOND)
    again = transitions.claim(after, "worker-2", START + SECOND, LEASE)
    assert (again.attempt, again.lease_epoch) == (1, 2)


def test_a_request_to_stop_ends_what_waits():
    after = transitions.request_cancel(new(), START + SECOND)
    assert (after.state, after.error, after.cancel_requested_time, after.end_time) == (
        State.CANCELLED,
        CANCELLED,
        START + SECOND,
        START + SECOND,
    )


def test_a_request_to_stop_is_noted_on_what_runs():
    operation = running()
    after = transitions.request_cancel(operation, START + SECOND)
    assert after == operation.evolve(
        revision=operation.revision + 1,
        update_time=START + SECOND,
        cancel_requested_time=START + SECOND,
    )
    assert transitions.request_cancel(after, START + 2 * SECOND) is after


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        (Retry(ERROR, SECOND), AttemptOutcome.FAILED),
        (Released(), None),
        (Succeeded(RESPONSE), None),
        (Failed(ERROR), None),
        (Cancelled(), None),
    ],
    ids=lambda it: type(it).__name__,
)
def test_of_what_a_worker_ends_only_a_failure_before_a_retry_goes_into_the_history(change, outcome):
    lost_before = transitions.claim(running(), "worker-2", START + LEASE, LEASE)
    for operation in (running(), lost_before):
        ended = transitions.ended_attempt(operation, finished(operation, change))
        assert (ended and ended.outcome) == outcome


@pytest.mark.parametrize(("max_attempts", "counted"), [(1, True), (2, False)])
def test_a_lost_attempt_goes_into_the_history(max_attempts, counted):
    operation = running(max_attempts=max_attempts)
    after = transitions.claim(operation, "worker-2", START + LEASE, LEASE)
    ended = transitions.ended_attempt(operation, after)
    assert ended is not None
    assert (ended.number, ended.epoch, ended.worker, ended.outcome, ended.error) == (
        1,
        1,
        "worker-1",
        AttemptOutcome.LOST,
        WORKER_LOST,
    )
    assert ended.counted == counted


def test_writes_that_end_nothing_add_nothing_to_the_history():
    operation = transitions.claim(running(), "worker-2", START + LEASE, LEASE)
    lease = lease_of(operation)
    for after in (
        transitions.renew(operation, lease, START + LEASE, LEASE),
        transitions.report(operation, lease, None, RESPONSE, START + LEASE),
        transitions.request_cancel(operation, START + LEASE),
        transitions.delete(operation),
    ):
        assert transitions.ended_attempt(operation, after) is None


@given(st.integers(0, 10**12), st.integers(-5, 10**12))
def test_the_percentage_is_between_0_and_100_and_never_rounded_up(completed, total):
    percent = Progress(completed, total).percent
    assert 0 <= percent <= 100
    assume(0 < completed < total)
    assert percent < 100
