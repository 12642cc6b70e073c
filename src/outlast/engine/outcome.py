"""What becomes of an operation after an attempt."""

from dataclasses import replace
from datetime import timedelta

from outlast.domain.errors import OutlastError
from outlast.domain.operation import Operation
from outlast.domain.status import Code, Status
from outlast.domain.transitions import Failed, Outcome, Retry
from outlast.engine.retry import RetryPolicy

UNEXPECTED = Status(Code.INTERNAL, "the operation failed unexpectedly", reason="UNEXPECTED_FAILURE")
"""All that a client learns of an exception that the handler did not mean to raise."""

LONGEST_RETRY_DELAY = timedelta(days=365)
"""What a failure can ask for at the most: any date after it can still be written."""


def bounded(status: Status, limit: int) -> Status:
    """Return a status of at most about `limit` bytes: cut short, or without its details."""
    size = len(status.message.encode(errors="surrogatepass")) + sum(
        len(detail.value) for detail in status.details
    )
    if size <= limit:
        return status
    return replace(status, message=status.message[: limit // 4], details=status.details[:0])


class AttemptFailedError(OutlastError):
    """A handler says that its attempt failed, and how."""

    reason = "ATTEMPT_FAILED"

    def __init__(self, status: Status, retry_delay: timedelta | None = None) -> None:
        super().__init__(status.message)
        self.status = status
        self.retry_delay = retry_delay


def failure(
    operation: Operation, policy: RetryPolicy, error: BaseException, chance: float
) -> Outcome:
    """Decide between another attempt and the end.

    `chance`, from 0 to 1, is the jitter. A failure that would have been retried had
    there been an attempt left is a dead letter.
    """
    status = error.status if isinstance(error, AttemptFailedError) else UNEXPECTED
    pause = retry_pause(policy, operation.attempt, error, chance)
    if pause is None:
        return Failed(status)
    if operation.attempt >= operation.max_attempts:
        return Failed(status, dead_letter=True)
    return Retry(status, pause)


def retry_pause(
    policy: RetryPolicy, attempt: int, error: BaseException, chance: float
) -> timedelta | None:
    """Return how long to wait after a failure before another try; None if none is worth it.

    How many tries there are is for the caller to count.
    """
    if isinstance(error, AttemptFailedError):
        if error.retry_delay is not None:
            return min(max(error.retry_delay, timedelta()), LONGEST_RETRY_DELAY)
        if error.status.code not in policy.codes:
            return None
    return policy.delay(attempt, chance)
