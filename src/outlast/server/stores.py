"""The store that a name stands for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import import_module

from outlast.domain.checks import require
from outlast.domain.errors import ConfigurationError
from outlast.engine.clock import SteadyClock, SystemClock
from outlast.ports import Clock, OperationStore
from outlast.stores.addresses import described
from outlast.stores.memory import MemoryStore
from outlast.stores.sqlite import SqliteStore

MEMORY = "memory:"

_POSTGRES = ("postgresql://", "postgres://")


@asynccontextmanager
async def opened(
    store: str | OperationStore, clock: Clock
) -> AsyncIterator[tuple[OperationStore, Clock]]:
    """Open the store that a name stands for, and say by which time it goes.

    One that is open stays its owner's, and goes by what its owner gave it.
    """
    if isinstance(store, OperationStore):
        yield store, clock
        return
    require("store", store, str, "a str, the path to a file, a URL or memory:, or an open store")
    steady = SteadyClock(clock)
    if store.startswith(_POSTGRES):
        async with _postgres(store, steady, clock) as both:
            yield both
        return
    async with _local(store, steady) as local:
        if local.latest_time is not None:
            steady.not_before(local.latest_time)
        yield local, steady


def _local(name: str, clock: Clock) -> AbstractAsyncContextManager[OperationStore]:
    if name == MEMORY:
        return MemoryStore.open(clock=clock)
    if "://" in name:
        raise ConfigurationError(
            f"there is no store for {name!r}; name a file, {MEMORY} or a postgresql:// URL"
        )
    return SqliteStore.open(name, clock=clock)


@asynccontextmanager
async def _postgres(
    url: str, timer: Clock, given: Clock
) -> AsyncIterator[tuple[OperationStore, Clock]]:
    """Open a database, whose clock is gone by, unless a clock was given that is not the machine's."""
    try:
        module = await asyncio.to_thread(import_module, "outlast.stores.postgres")
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{described(url)} needs psycopg: install the extra outlast[postgres]"
        ) from error
    replacement = None if isinstance(given, SystemClock) else timer
    async with module.PostgresStore.open(url, timer=timer, clock=replacement) as store:
        yield store, store.clock
