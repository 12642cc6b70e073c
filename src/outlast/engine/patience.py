"""Calls to a store that may be away for a moment, or not answer at all."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from outlast.domain.errors import StoreUnavailableError
from outlast.ports import Clock

T = TypeVar("T")

_FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 1.0


async def absorb(clock: Clock, call: Callable[[], Awaitable[T]], seconds: float) -> T:
    """Make a call, again and again while the store is away, for so many seconds in all.

    Then StoreUnavailableError is raised, also if the store has not answered at all; what
    was to be written may be written all the same. Clients give an operation up on errors
    that mean nothing for it, so a moment's outage must not reach them.
    """
    failure: StoreUnavailableError | None = None

    async def persist() -> T:
        nonlocal failure
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await call()
            except StoreUnavailableError as error:
                failure = error
            await clock.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    with suppress(TimeoutError):
        return await within(clock, persist, seconds)
    raise failure or StoreUnavailableError("the operation store does not answer; try again later")


async def within(clock: Clock, call: Callable[[], Awaitable[T]], seconds: float) -> T:
    """Return what a call returns; cancel it and raise TimeoutError after so many seconds.

    It is `asyncio.timeout` by a clock that is handed in.
    """
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("only a task can be kept from waiting")
    cancelled_before = task.cancelling()
    over = False

    def end() -> None:
        nonlocal over
        over = True
        task.cancel()

    timer = clock.call_later(seconds, end)
    try:
        return await call()
    except asyncio.CancelledError as error:
        if over and task.cancelling() == cancelled_before + 1:  # by nobody else
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()
        if over:
            task.uncancel()
