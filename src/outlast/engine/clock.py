"""The system's time, and what makes of it a time that never goes back."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from outlast.ports import FARTHEST_AHEAD, Clock, TimerHandle

_CATCHING_UP_SPEED = 0.9
"""How fast time passes while the time of day is behind what it was."""

_log = logging.getLogger(__name__)


class SystemClock(Clock):
    """The clock of the machine and the timers of the running event loop."""

    def now(self) -> datetime:
        """Return the machine's time of day, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return the machine's monotonic time in seconds."""
        return time.monotonic()

    def sleep(self, seconds: float) -> Awaitable[None]:
        """Sleep on the event loop."""
        return asyncio.sleep(seconds)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> TimerHandle:
        """Set a timer of the event loop."""
        return asyncio.get_running_loop().call_later(seconds, callback)


class SteadyClock(Clock):
    """Another clock, with a time of day that never goes back.

    When the other one's does, this one goes on from where it was, a little slower than
    time passes until the other has caught up. So what is to happen at a time of day does
    not have to wait for that to come round again. When it is behind by more than a day,
    it is believed instead: it was wrong before, as at the start of a machine it may be.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._latest = clock.now(), clock.monotonic()

    def now(self) -> datetime:
        """Return the time of day, in UTC, or a later time if that has gone back."""
        now, monotonic = self._clock.now(), self._clock.monotonic()
        latest, then = self._latest  # together, because other threads ask as well
        passed = timedelta(seconds=_CATCHING_UP_SPEED * max(0.0, monotonic - then))
        steady = max(now, latest + passed)
        if steady - now > FARTHEST_AHEAD:
            _log.error("the time of day went back by %s; it is believed", steady - now)
            steady = now
        self._latest = steady, monotonic
        return steady

    def not_before(self, moment: datetime) -> None:
        """Go on from a moment, if that is later than now by a day at the most."""
        if timedelta() < moment - self.now() <= FARTHEST_AHEAD:
            self._latest = moment, self._clock.monotonic()

    def monotonic(self) -> float:
        """Return the other clock's monotonic time in seconds."""
        return self._clock.monotonic()

    def sleep(self, seconds: float) -> Awaitable[None]:
        """Sleep as long as the other clock says."""
        return self._clock.sleep(seconds)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> TimerHandle:
        """Set a timer of the other clock."""
        return self._clock.call_later(seconds, callback)
