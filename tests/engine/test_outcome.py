from datetime import UTC, datetime, timedelta

import pytest

from outlast.domain.operation import Operation
from outlast.domain.status import Code, Payload, Status
from outlast.domain.transitions import Failed, Retry
from outlast.engine.outcome import UNEXPECTED, AttemptFailedError, bounded, failure
from outlast.engine.retry import RetryPolicy

POLICY = RetryPolicy(
    initial_backoff=timedelta(seconds=10), codes=frozenset({Code.UNAVAILABLE, Code.ABORTED})
)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def outcome(error, attempt=1, max_attempts=3):
    operation = Operation(
        name="operations/1",
        parent="",
        method="example.v1.Books/Print",
        create_time=NOW,
        update_time=NOW,
        attempt=attempt,
        max_attempts=max_attempts,
    )
    return failure(operation, POLICY, error, 0.5)


def failed(code, delay=None):
    return AttemptFailedError(Status(code, "the press is jammed"), delay)


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.ABORTED])
def test_a_reported_failure_with_a_code_of_the_policy_is_retried(code):
    assert outcome(failed(code)) == Retry(
        Status(code, "the press is jammed"), timedelta(seconds=10)
    )


@pytest.mark.parametrize("code", [Code.INVALID_ARGUMENT, Code.INTERNAL, Code.CANCELLED])
def test_a_reported_failure_with_another_code_ends_the_operation(code):
    assert outcome(failed(code)) == Failed(Status(code, "the press is jammed"))


def test_a_failure_that_says_when_to_retry_is_retried_then_whatever_its_code():
    error = failed(Code.INTERNAL, timedelta(seconds=7))
    assert outcome(error) == Retry(error.status, timedelta(seconds=7))


def test_a_failure_may_ask_for_a_retry_at_once():
    error = failed(Code.INTERNAL, timedelta())
    assert outcome(error) == Retry(error.status, timedelta())


def test_the_wait_grows_with_the_attempt():
    assert outcome(failed(Code.UNAVAILABLE), attempt=2) == Retry(
        Status(Code.UNAVAILABLE, "the press is jammed"), timedelta(seconds=20)
    )


@pytest.mark.parametrize(
    "error",
    [failed(Code.UNAVAILABLE), failed(Code.INTERNAL, timedelta(seconds=7))],
    ids=["by its code", "by its delay"],
)
def test_a_failure_worth_a_retry_in_the_last_attempt_is_a_dead_letter(error):
    assert outcome(error, attempt=3) == Failed(error.status, dead_letter=True)


def test_a_failure_that_is_not_worth_a_retry_is_no_dead_letter():
    error = failed(Code.INVALID_ARGUMENT)
    assert outcome(error, attempt=3) == Failed(error.status, dead_letter=False)


@pytest.mark.parametrize("error", [ValueError("secret"), SystemExit("secret"), KeyboardInterrupt()])
def test_an_exception_that_nobody_meant_is_retried_without_its_text(error):
    assert outcome(error) == Retry(UNEXPECTED, timedelta(seconds=10))


def test_an_exception_that_nobody_meant_ends_as_a_dead_letter_without_its_text():
    assert outcome(ValueError("secret"), attempt=3) == Failed(UNEXPECTED, dead_letter=True)
    assert UNEXPECTED.code is Code.INTERNAL
    assert UNEXPECTED.details == ()


def test_a_status_within_the_limit_stays_as_it_is():
    status = Status(Code.ABORTED, "m" * 50, (Payload("t", b"d" * 50),))
    assert bounded(status, 100) is status


def test_a_status_over_the_limit_loses_its_details_and_the_end_of_its_message():
    status = Status(Code.ABORTED, "m" * 500, (Payload("t", b"d" * 50),), reason="JAMMED")
    assert bounded(status, 100) == Status(Code.ABORTED, "m" * 25, reason="JAMMED")


def test_the_limit_of_a_status_counts_bytes_and_not_characters():
    status = Status(Code.ABORTED, "☃" * 100)
    assert len(bounded(status, 100).message.encode()) <= 100


@pytest.mark.parametrize(
    ("asked", "given"),
    [(timedelta(seconds=-1), timedelta()), (timedelta.max, timedelta(days=365))],
    ids=["below nothing", "for ever"],
)
def test_a_failure_asks_for_a_delay_within_reason(asked, given):
    error = failed(Code.UNAVAILABLE, asked)
    assert outcome(error) == Retry(error.status, given)
