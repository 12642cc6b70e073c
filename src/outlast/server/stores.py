"""The store that a name stands for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from importlib import import_module
from typing import Any

from outlast.domain.checks import require
from outlast.domain.errors import ConfigurationError
from outlast.engine.clock import SteadyClock, SystemClock
from outlast.ports import Clock, OperationStore
from outlast.stores.addresses import described, is_conninfo
from outlast.stores.memory import MemoryStore
from outlast.stores.sqlite import SqliteStore

MEMORY = "memory:"

_POSTGRES = ("postgresql://", "postgres://")


@asynccontextmanager
async def opened(
    store: str | OperationStore,
    clock: Clock,
    *,
    direct: str | None = None,
    patience: timedelta = timedelta(),
) -> AsyncIterator[tuple[OperationStore, Clock]]:
    """Open the store that a name stands for, and say by which time it goes.

    One that is open stays its owner's, and goes by what its owner gave it. A database may
    have a `direct` address, past its pooler, and is given `patience` to be up.
    """
    if direct is not None and not (_is_database(store) and _is_database(direct)):
        raise ConfigurationError(
            "store_direct is another address of the database that the store is: both have to be "
            "postgresql:// URLs"
        )
    if isinstance(store, OperationStore):
        yield store, clock
        return
    require("store", store, str, "a str, the path to a file, a URL or memory:, or an open store")
    steady = SteadyClock(clock)
    if _is_database(store):
        async with _postgres(store, steady, clock, direct=direct, patience=patience) as both:
            yield both
        return
    async with _local(store, steady) as local:
        if local.latest_time is not None:
            steady.not_before(local.latest_time)
        yield local, steady


def _is_database(store: object) -> bool:
    return isinstance(store, str) and store.startswith(_POSTGRES)


def _local(name: str, clock: Clock) -> AbstractAsyncContextManager[OperationStore]:
    if name == MEMORY:
        return MemoryStore.open(clock=clock)
    if "://" in name:
        raise ConfigurationError(
            f"there is no store for {described(name)!r}; name a file, {MEMORY} or a postgresql:// URL"
        )
    if is_conninfo(name):
        raise ConfigurationError(
            "a database is named by a postgresql:// URL, not by key words; "
            "for a file of such a name give ./ before it"
        )
    return SqliteStore.open(name, clock=clock)


@asynccontextmanager
async def _postgres(
    url: str, timer: Clock, given: Clock, **options: Any
) -> AsyncIterator[tuple[OperationStore, Clock]]:
    """Open a database, whose clock is gone by, unless a clock was given that is not the machine's."""
    try:
        module = await asyncio.to_thread(import_module, "outlast.stores.postgres")
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{described(url)} needs psycopg: install the extra outlast[postgres]"
        ) from error
    replacement = None if isinstance(given, SystemClock) else timer
    opening = module.PostgresStore.open(url, timer=timer, clock=replacement, **options)
    async with opening as store:
        yield store, store.clock
