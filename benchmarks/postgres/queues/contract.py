"""What a system has to offer to be measured."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Queue:
    """A system that runs no-ops in this process, on a database of its own."""

    enqueue: Callable[[], Awaitable[object]]
    """Give it one no-op, which is durable when that returns."""
    unfinished: str
    """A query for how many no-ops are not done, or whose end is not committed."""
    enqueue_all: Callable[[int], Awaitable[object]] | None = None
    """Give it many at once, if it has a way to."""
    run: Callable[[], Awaitable[object]] | None = None
    """Give it one, and return when told that it is done."""


class Runs:
    """Counts the handlers that ran, in whichever thread, for somebody who waits for a number."""

    def __init__(self) -> None:
        self.last = 0.0
        """When the last one began, by the machine's monotonic clock."""
        self._loop = asyncio.get_running_loop()
        self._reached = asyncio.Event()
        self._lock = threading.Lock()
        self._missing = 0

    def expect(self, number: int) -> None:
        """Begin to count down from a number."""
        self._missing = number
        self._reached.clear()

    def ran(self) -> None:
        """Count a handler that has just begun."""
        with self._lock:
            self.last = time.monotonic()
            self._missing -= 1
            over = self._missing == 0
        if over:
            self._loop.call_soon_threadsafe(self._reached.set)

    async def all_ran(self) -> None:
        """Return when as many as were expected have begun."""
        await self._reached.wait()
