"""Operations for any grpc.aio server."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from types import TracebackType
from typing import NoReturn, Self, TypeVar

import grpc

from outlast.domain.checks import require
from outlast.domain.errors import ConfigurationError, TooManyWaitersError
from outlast.engine.clock import SystemClock
from outlast.engine.engine import Engine
from outlast.engine.settings import EngineSettings
from outlast.ports import Clock, OperationStore
from outlast.rpc.admin import OperationsAdminServicer
from outlast.rpc.binding import bind_service
from outlast.rpc.calls import CallLimit
from outlast.rpc.codec import Codec
from outlast.rpc.operations import OperationsServicer
from outlast.rpc.services import Service
from outlast.server.choice import Choice
from outlast.server.stores import opened

T = TypeVar("T")


class Operations:
    """Durable operations for the long-running methods of some services.

    Open it with `Operations.open`, and `add_to` a server: that serves the services,
    google.longrunning.Operations and the admin service. Without a server it is a
    worker: it runs what others start.
    """

    def __init__(self, engine: Engine, services: Sequence[object]) -> None:
        codec = Codec()
        self.engine = engine
        self._call_limit = CallLimit(engine.settings.max_calls)
        self._wait_limit = CallLimit(engine.settings.max_waiters, TooManyWaitersError)
        require("services", services, Iterable, "a list of servicers")
        given = [Service(servicer) for servicer in services]
        self._services = [
            *given,
            Service(OperationsServicer(engine, codec), parking={"WaitOperation"}),
            Service(OperationsAdminServicer(engine, codec)),
        ]
        _require_different(self._services)
        for service in given:
            bind_service(service, engine, codec)

    @classmethod
    def open(
        cls,
        store: str | OperationStore = "outlast.db",
        *,
        services: Sequence[object],
        settings: EngineSettings | None = None,
        clock: Clock | None = None,
        execute: bool = True,
        methods: Collection[str] | None = None,
        except_methods: Collection[str] = (),
        store_direct: str | None = None,
        store_wait: timedelta = timedelta(),
    ) -> AbstractAsyncContextManager[Self]:
        """Open a store and begin to run the operations of the services.

        Of all their methods, or of `methods` only, or of all but `except_methods`, which
        are named as `package.Service/Method`; with `execute=False` of none.

        `store` is a path to an SQLite file, `memory:`, a `postgresql://` URL, or an open store. Raises
        StoreOpenError, and ConfigurationError for services that cannot be served. A database
        whose URL leads to a pooler of transactions has a `store_direct` URL too, and one that
        is not up yet is waited for as long as `store_wait`.
        On leaving, what runs is given back to be run again, and the store is closed.
        """
        settings = EngineSettings() if settings is None else settings
        require("settings", settings, EngineSettings, "outlast.EngineSettings")
        choice = Choice(execute, methods, except_methods)
        given = clock or SystemClock()
        opening = opened(store, given, direct=store_direct, patience=store_wait)
        return _Opening(cls._open(opening, services, settings, given, choice))

    @classmethod
    @asynccontextmanager
    async def _open(
        cls,
        opening: AbstractAsyncContextManager[tuple[OperationStore, Clock]],
        services: Sequence[object],
        settings: EngineSettings,
        clock: Clock,
        choice: Choice,
    ) -> AsyncIterator[Self]:
        async with (
            opening as (kept, time),
            Engine.open(kept, time, settings) as engine,
        ):
            operations = cls(engine, services)
            engine.start(
                execute=choice.execute,
                taken=choice.of(engine.methods),
                watch_loop=isinstance(clock, SystemClock),
            )
            yield operations

    @property
    def service_names(self) -> Sequence[str]:
        """The full names of the services that `add_to` adds."""
        return [service.name for service in self._services]

    async def close_calls(self) -> None:
        """Refuse calls from now on with UNAVAILABLE; return when no other is under way."""
        await asyncio.gather(self._call_limit.close(), self._wait_limit.close())

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve the services and their operations on a grpc.aio server that has not started."""
        limits = self.engine.settings.max_request_bytes, self._call_limit, self._wait_limit
        for service in self._services:
            service.add_to(server, *limits)


class _Opening(AbstractAsyncContextManager[T]):
    """What is not open yet, and says so to those who use it already."""

    def __init__(self, manager: AbstractAsyncContextManager[T, bool | None]) -> None:
        self._manager = manager

    async def __aenter__(self) -> T:
        return await self._manager.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._manager.__aexit__(kind, error, traceback)

    def __getattr__(self, name: str) -> NoReturn:
        msg = f"{name}: open it first: async with Operations.open(...) as operations"
        raise AttributeError(msg)


def _require_different(services: Sequence[Service]) -> None:
    """Raise ConfigurationError if a service is served by two servicers."""
    classes: dict[str, str] = {}
    for service in services:
        kind = type(service.servicer).__name__
        if service.name in classes:
            raise ConfigurationError(
                f"{service.name} is served twice, by {classes[service.name]} and by {kind}"
            )
        classes[service.name] = kind
