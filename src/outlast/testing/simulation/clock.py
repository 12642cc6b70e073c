"""The clocks of a simulation: all go by the loop's time, and none agrees with another."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from outlast.ports import Clock, TimerHandle
from outlast.testing.simulation.loop import SimulatedLoop

_START = datetime(2026, 1, 1, tzinfo=UTC)


class SimulatedClock(Clock):
    """A clock that is off by so many seconds, and whose monotonic time starts anywhere."""

    def __init__(self, loop: SimulatedLoop, skew: float = 0.0, boot: float = 0.0) -> None:
        self._loop = loop
        self._start = _START + timedelta(seconds=skew)
        self._boot = boot

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._loop.time())

    def monotonic(self) -> float:
        return self._loop.time() - self._boot

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(seconds, 0.0))

    def call_later(self, seconds: float, callback: Callable[[], None]) -> TimerHandle:
        return self._loop.call_later(seconds, callback)
