"""Threads for what blocks: each attempt has its own, so that none waits for those of others."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

MAX_THREADS = 32
"""How many threads an attempt has at the most; what it has beyond them to do waits for one."""


class Threads:
    """The threads of one attempt, started when they are needed."""

    def __init__(self) -> None:
        self.closed = False
        """Whether the attempt is over, and nothing more is to begin."""
        self._pool: ThreadPoolExecutor | None = None
        self._calls: set[Future[Any]] = set()
        self._on_ended: Callable[[], None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a function has not returned yet, whoever waits for it."""
        return bool(self._calls)

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Run a function in a thread; what it raises is raised.

        It cannot be stopped: who is cancelled leaves it running, if it has begun. Not to
        be called when `closed`.
        """
        context = contextvars.copy_context()

        def call() -> T:
            try:
                return context.run(function, *args)
            except StopIteration as error:  # a future that gets it is never done
                raise RuntimeError("the function raised StopIteration") from error

        if self._pool is None:
            self._pool = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="outlast-handler")
        loop = asyncio.get_running_loop()

        def on_done(future: Future[T]) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._discard, future)

        future = self._pool.submit(call)
        self._calls.add(future)
        future.add_done_callback(on_done)  # before who waits for it hears of it
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Begin nothing more; let go of the threads that have nothing to do."""
        self.closed = True
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Have a function called when every thread has ended; at once if all have."""
        if self._calls:
            self._on_ended = callback
        else:
            callback()

    def _discard(self, future: Future[Any]) -> None:
        self._calls.discard(future)
        if not self._calls and self._on_ended is not None:
            self._on_ended()
            self._on_ended = None
