"""Ends and forgets operations that no worker has to be asked about."""

import logging
from collections.abc import Awaitable, Callable, Collection
from datetime import timedelta
from typing import NoReturn

from outlast.domain.errors import StoreUnavailableError
from outlast.engine.jumps import JumpWatch
from outlast.ports import Clock, OperationStore

_log = logging.getLogger(__name__)

_BATCH = 500


async def expire_forever(store: OperationStore, clock: Clock, interval: timedelta) -> NoReturn:
    """Forget operations whose time to be kept is over, once per interval."""
    while True:
        await _sweep(store.expire, "expired operations stay for now")
        await clock.sleep(interval.total_seconds())


async def reap_forever(store: OperationStore, clock: Clock, lease: timedelta) -> NoReturn:
    """End what is ready and must not run again, whoever knows its method, once per lease."""
    jumps = JumpWatch(clock, lease)
    while True:
        jumps.look()

        async def reap(limit: int) -> int:
            return await store.reap(limit, distrust=jumps.distrust)

        await _sweep(reap, "operations that must not run again wait for now")
        await clock.sleep(lease.total_seconds())


async def tell_of_unserved(store: OperationStore, known: Collection[str]) -> None:
    """Log which methods have work and are not known here."""
    try:
        stats = await store.stats()
    except StoreUnavailableError:
        return
    for it in stats:
        count = it.ready + it.delayed + it.running
        if count and it.method not in known:
            _log.warning(
                "%d operations of %s are not done, and this process has no such method: they wait"
                " for one that has it",
                count,
                it.method,
            )


async def _sweep(batch: Callable[[int], Awaitable[int]], complaint: str) -> None:
    """Do all that is due, in small batches."""
    try:
        while await batch(_BATCH) == _BATCH:
            pass
    except StoreUnavailableError as error:
        _log.warning("%s: %s", complaint, error)
