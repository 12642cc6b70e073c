"""The database's time of day, known without asking each time."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from outlast.ports import Clock, TimerHandle
from outlast.stores.rows import EPOCH


class DatabaseClock(Clock):
    """Goes on from the time that the database told last.

    It differs from the database's by no more than the quickest answer was under way: one
    that was late, such as to a process that was stopped, is no jump of the time of day.
    What is due and what has expired is not decided by it, but by the database's own clock.
    """

    def __init__(self, timer: Clock) -> None:
        self._timer = timer
        self._told = timer.now(), timer.monotonic()

    def set(self, micros: int, asked_at: float) -> datetime:
        """Take the time, in microseconds since 1970, that the database has told.

        It did between `asked_at`, a monotonic time, and now.
        """
        moment = EPOCH + timedelta(microseconds=micros)
        answered_at = self._timer.monotonic()
        latest = moment + timedelta(seconds=answered_at - asked_at)
        self._told = min(max(self.now(), moment), latest), answered_at
        return moment

    def now(self) -> datetime:
        """Return the database's time of day, in UTC."""
        moment, since = self._told
        return moment + timedelta(seconds=self._timer.monotonic() - since)

    def monotonic(self) -> float:
        """Return the machine's monotonic time in seconds."""
        return self._timer.monotonic()

    def sleep(self, seconds: float) -> Awaitable[None]:
        """Sleep as long as the machine's clock says."""
        return self._timer.sleep(seconds)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> TimerHandle:
        """Set a timer of the machine's clock."""
        return self._timer.call_later(seconds, callback)
