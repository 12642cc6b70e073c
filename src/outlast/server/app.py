"""A server with everything: health, reflection, signals, drain."""

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack, nullcontext, suppress
from types import FrameType, TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from outlast.domain.errors import ConfigurationError
from outlast.engine.clock import SystemClock
from outlast.ports import Clock
from outlast.server.config import ServerConfig
from outlast.server.connections import connections_to, stop_listening
from outlast.server.listening import credentials, free_address
from outlast.server.operations import Operations

_log = logging.getLogger(__name__)

_GRPC_OPTIONS = (
    # The defaults cancel a burst of waiting calls.
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 200_000),
)
_MIN_MESSAGE_BYTES = 16 * 1024 * 1024
_MAX_MESSAGE_BYTES = 2**31 - 1  # as many as gRPC can be told
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_STUCK_SECONDS = 3.0
"""How long the event loop has to take notice of a second signal."""
_STUCK_EXIT_CODE = 8
"""That of the `outlast` command for a server that broke down."""
_CLOSE_SECONDS = 1.0
"""How long calls that are being answered have when everything else is done."""


class Server:
    """Serves services with their operations, or is a worker that runs what others start.

    Use it as an async context manager.
    Entering it opens the store and listens; raises StoreOpenError and
    ConfigurationError. Leaving it drains: health turns NOT_SERVING, waiting calls get
    the latest state, running operations get `grace` to end, and what is left is given
    back, to be run when the server starts again.
    """

    def __init__(
        self,
        *,
        services: Sequence[object],
        config: ServerConfig | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.config = config or ServerConfig()
        self.address = ""
        """Where the server listens, with the real port; empty for a worker that does not."""
        self._services = services
        self._clock = clock or SystemClock()
        self._stack = AsyncExitStack()
        self._signals = ExitStack()
        self._grace_over = asyncio.Event()
        self._health = health.aio.HealthServicer()

    @property
    def operations(self) -> Operations:
        """The operations of the services."""
        return self._operations

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._operations = await stack.enter_async_context(
                Operations.open(
                    self.config.store,
                    services=self._services,
                    settings=self.config.engine,
                    clock=self._clock,
                    execute=self.config.execute,
                    methods=self.config.methods,
                    except_methods=self.config.except_methods,
                    store_direct=self.config.store_direct,
                    store_wait=self.config.store_wait,
                )
            )
            if self.config.listen is not None:
                server = self._grpc_server()
                self.address = await self._bind(server, self.config.listen)
                await server.start()
                stack.push_async_callback(server.stop, _CLOSE_SECONDS)
                stack.push_async_callback(self._hang_up)
            stack.push_async_callback(self._drain)
            await self._set_health(health_pb2.HealthCheckResponse.SERVING)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._signals:  # heard to the end: one may come while the server drains
            await self._stack.aclose()
        count = self._operations.engine.executor.given_back
        if count == 0:
            _log.info("stopped: nothing was given back")
        else:
            were = "1 operation was" if count == 1 else f"{count} operations were"
            _log.info("stopped: %s given back, to be run by the next server", were)

    def hurry(self) -> None:
        """Give up every grace: what runs is given back at once."""
        self._grace_over.set()
        self._operations.engine.executor.hurry()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, or until the engine dies, which raises.

        A second signal while the server drains stops it at once.
        """
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()

        def on_signal() -> None:
            if stop.is_set():
                _log.warning("told to stop a second time: what runs is given back at once")
                self.hurry()
            stop.set()

        for number in _STOP_SIGNALS:
            loop.add_signal_handler(number, on_signal)
            self._signals.callback(loop.remove_signal_handler, number)
        _end_if_stuck(self._grace_over)
        died: asyncio.Future[Any] = self._operations.engine.died
        stopped: asyncio.Future[Any] = asyncio.create_task(stop.wait(), name="outlast-signal")
        await asyncio.wait((stopped, died), return_when=asyncio.FIRST_COMPLETED)
        if died.done():
            stopped.cancel()
            died.result()

    def _grpc_server(self) -> grpc.aio.Server:
        server = grpc.aio.server(
            options=(
                *_GRPC_OPTIONS,
                # Unless it is meant, a second server must fail, not take half of the calls.
                ("grpc.so_reuseport", int(self.config.share_port)),
                _message_limit(self.config.engine.max_request_bytes),
            )
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = [health.SERVICE_NAME, reflection.SERVICE_NAME]
        if self.config.api:
            self._operations.add_to(server)
            names = [*self._operations.service_names, *names]
        reflection.enable_server_reflection(names, server)
        return server

    async def _set_health(self, status: Any) -> None:
        """Say how the whole is, and each service that is served here."""
        names = self._operations.service_names if self.config.api else ()
        for name in ("", *names):
            await self._health.set(name, status)

    async def _bind(self, server: grpc.aio.Server, listen: str) -> str:
        tls = self.config.tls
        secured = None if tls is None else await asyncio.to_thread(credentials, tls)
        async with nullcontext() if self.config.share_port else free_address(listen):
            try:
                if secured is None:
                    port = server.add_insecure_port(listen)
                else:
                    port = server.add_secure_port(listen, secured)
            except RuntimeError as error:
                raise ConfigurationError(f"cannot listen on {listen}: {error}") from error
        if listen.startswith("unix:"):
            return listen
        return f"{listen.rpartition(':')[0]}:{port}"

    async def _drain(self) -> None:
        """Let calls and operations end in peace, as far as the grace goes."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        engine = self._operations.engine
        engine.wake_waiters()  # they call again, by a balancer another server
        running = engine.executor.running
        if running == 0:
            _log.info("stopping: nothing is running")
        else:
            _log.info(
                "stopping: %s %g s to end; stop again to give back at once what runs",
                "1 operation is running and has"
                if running == 1
                else f"{running} operations are running and have",
                self.config.grace.total_seconds(),
            )
        timer = self._clock.call_later(self.config.grace.total_seconds(), self._grace_over.set)
        waits = [
            asyncio.create_task(engine.executor.drain(), name="outlast-drain"),
            asyncio.create_task(self._grace_over.wait(), name="outlast-grace"),
        ]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        timer.cancel()
        for task in waits:
            task.cancel()
        await asyncio.wait(waits)
        await engine.give_back()

    async def _hang_up(self) -> None:
        """Answer the calls that are under way, refuse others, and drop the connections.

        Those that gRPC has not handed over when it stops it would end with CANCELLED, which
        no caller tries again; a lost connection is UNAVAILABLE.
        """
        self._operations.engine.release_waiters()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._operations.close_calls()
        # A caller who is hung up on comes again at once.
        await asyncio.to_thread(stop_listening, self.address)
        for connection in await asyncio.to_thread(connections_to, self.address):
            with connection, suppress(OSError):  # the caller was quicker
                connection.shutdown(socket.SHUT_RDWR)


def _end_if_stuck(hurried: asyncio.Event) -> None:
    """Have the second signal end the process if the event loop does not take notice.

    It cannot while a handler blocks it. What ran is then run again, as after a crash.
    """
    of_loop: dict[int, Any] = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
    count = 0

    def end() -> None:
        if not hurried.is_set():
            _log.critical("the event loop does not take notice of signals; the process ends")
            os._exit(_STUCK_EXIT_CODE)

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count > 1:
            timer = threading.Timer(_STUCK_SECONDS, end)
            timer.daemon = True
            timer.start()
        if callable(of_loop[number]):
            of_loop[number](number, frame)

    for number in _STOP_SIGNALS:
        signal.signal(number, on_signal)


def _message_limit(max_request_bytes: int) -> tuple[str, int]:
    """Return the option that says what gRPC reads of a request before it gives up.

    That is more than a request may have: what gRPC refuses itself has no details.
    """
    limit = max(_MIN_MESSAGE_BYTES, 4 * max_request_bytes)
    return "grpc.max_receive_message_length", min(limit, _MAX_MESSAGE_BYTES)
