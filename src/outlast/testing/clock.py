"""A clock that stands still until a test moves it."""

import asyncio
import heapq
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count

from outlast.ports import Clock, TimerHandle

_SETTLE_TURNS = 50
"""Turns of the event loop after which what one timer set off is taken to be over."""


class ManualTimer(TimerHandle):
    """A call that a `ManualClock` makes when its time has come."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self._callback = None

    def fire(self) -> bool:
        """Make the call and return True, unless it was cancelled."""
        if self._callback is None:
            return False
        self._callback()
        return True


class ManualClock(Clock):
    """A clock that a test moves. It counts in whole microseconds, so sums are exact."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._time_of_day_at_zero = start
        self._elapsed = timedelta()
        self._timers: list[tuple[timedelta, int, ManualTimer]] = []
        self._order = count()

    def now(self) -> datetime:
        return self._time_of_day_at_zero + self._elapsed

    def monotonic(self) -> float:
        return self._elapsed.total_seconds()

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.Event()
        timer = self.call_later(seconds, woken.set)
        try:
            await woken.wait()
        finally:
            timer.cancel()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> ManualTimer:
        timer = ManualTimer(callback)
        due = self._elapsed + timedelta(seconds=max(seconds, 0))
        heapq.heappush(self._timers, (due, next(self._order), timer))
        return timer

    async def advance(self, seconds: float) -> None:
        """Let time pass, and everything happen that is due by then, in order.

        The event loop settles before the first timer, so that tasks that were just
        created get to their sleeps, and after each one. Work in threads and processes
        is not waited for.
        """
        if seconds < 0:
            raise ValueError("time does not pass backwards; `jump` sets the time of day back")
        end = self._elapsed + timedelta(seconds=seconds)
        await _settle()
        while self._timers and self._timers[0][0] <= end:
            due, _, timer = heapq.heappop(self._timers)
            self._elapsed = max(self._elapsed, due)
            if timer.fire():
                await _settle()
        self._elapsed = end

    def jump(self, seconds: float) -> None:
        """Set the time of day forward, or back; `monotonic` and timers know nothing of it."""
        self._time_of_day_at_zero += timedelta(seconds=seconds)


async def _settle() -> None:
    for _ in range(_SETTLE_TURNS):
        await asyncio.sleep(0)
