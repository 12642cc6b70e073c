"""Calls to a store that may be away for a moment."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from outlast.domain.errors import StoreUnavailableError
from outlast.ports import Clock

T = TypeVar("T")

_FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 1.0


async def absorb(clock: Clock, call: Callable[[], Awaitable[T]], seconds: float) -> T:
    """Make a call again while the store cannot answer, for so many seconds; then raise.

    Clients give an operation up on errors that mean nothing for it, so a moment's
    outage must not reach them.
    """
    try:
        return await call()
    except StoreUnavailableError:
        return await persist(clock, call, seconds)


async def persist(clock: Clock, call: Callable[[], Awaitable[T]], seconds: float) -> T:
    """Go on making a call that the store could not answer; see `absorb`."""
    give_up = clock.monotonic() + seconds
    pause = _FIRST_PAUSE_SECONDS
    while True:
        await clock.sleep(max(0.0, min(pause, give_up - clock.monotonic())))
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        try:
            return await call()
        except StoreUnavailableError:
            if clock.monotonic() >= give_up:
                raise
