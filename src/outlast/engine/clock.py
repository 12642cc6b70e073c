"""The system's time. Everything else is handed a clock."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from outlast.ports import Clock, TimerHandle


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
