"""Operations for any grpc.aio server."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Self

import grpc

from outlast.domain.errors import ConfigurationError
from outlast.engine.clock import SystemClock
from outlast.engine.engine import Engine
from outlast.engine.settings import EngineSettings
from outlast.ports import Clock, OperationStore
from outlast.rpc.admin import OperationsAdminServicer
from outlast.rpc.binding import bind_service
from outlast.rpc.codec import Codec
from outlast.rpc.operations import OperationsServicer
from outlast.rpc.services import Service
from outlast.stores.memory import MemoryStore
from outlast.stores.sqlite import SqliteStore

MEMORY = "memory:"


class Operations:
    """Durable operations for the long-running methods of some services.

    Open it with `Operations.open`, and `add_to` a server: that serves the services,
    google.longrunning.Operations and the admin service. Without a server it is a
    worker: it runs what others start.
    """

    def __init__(self, engine: Engine, services: Sequence[object]) -> None:
        codec = Codec()
        self.engine = engine
        self._services = [Service(servicer) for servicer in services]
        for service in self._services:
            bind_service(service, engine, codec)
        self._services += [
            Service(OperationsServicer(engine, codec)),
            Service(OperationsAdminServicer(engine.manager)),
        ]

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        store: str | OperationStore = "outlast.db",
        *,
        services: Sequence[object],
        settings: EngineSettings | None = None,
        clock: Clock | None = None,
        execute: bool = True,
    ) -> AsyncIterator[Self]:
        """Open a store and begin to run the operations of the services.

        `store` is a path to an SQLite file, `memory:`, or an open store. Raises
        StoreOpenError, and ConfigurationError for services that cannot be served.
        On leaving, what runs is given back to be run again, and the store is closed.
        """
        clock = clock or SystemClock()
        async with (
            _opened(store, clock) as opened,
            Engine.open(opened, clock, settings or EngineSettings()) as engine,
        ):
            operations = cls(engine, services)
            engine.start(execute=execute)
            yield operations

    @property
    def service_names(self) -> Sequence[str]:
        """The full names of the services that `add_to` adds."""
        return [service.name for service in self._services]

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve the services and their operations on a server that has not started."""
        for service in self._services:
            service.add_to(server)


@asynccontextmanager
async def _already_open(store: OperationStore) -> AsyncIterator[OperationStore]:
    yield store


def _opened(
    store: str | OperationStore, clock: Clock
) -> AbstractAsyncContextManager[OperationStore]:
    """Open the store that a name stands for; one that is open stays its owner's."""
    if isinstance(store, OperationStore):
        return _already_open(store)
    if store == MEMORY:
        return MemoryStore.open(clock=clock)
    if "://" in store:
        raise ConfigurationError(f"there is no store for {store!r}; name a file, or {MEMORY}")
    return SqliteStore.open(store, clock=clock)
