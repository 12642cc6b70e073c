"""Running a server or a worker until it is stopped."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import click

from outlast.cli.exit_codes import ExitCode
from outlast.cli.failure import Failure
from outlast.domain.errors import OutlastError
from outlast.server.app import Server
from outlast.server.config import ServerConfig
from outlast.server.garbage import collect_garbage_seldom
from outlast.stores.addresses import described

_run: Callable[[Coroutine[Any, Any, None]], None]
try:
    from uvloop import run as _run  # faster, if the extra is installed
except ImportError:
    _run = asyncio.run

T = TypeVar("T")

_log = logging.getLogger(__name__)

_LINGER_SECONDS = 2.0
"""How long the process may take to end when its server has closed."""
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve_until_stopped(
    services: Sequence[object],
    config: ServerConfig,
    announce: Callable[[str], object] = click.echo,
) -> None:
    """Serve until a signal comes; raise Failure if the server cannot start or breaks down.

    When it is ready, `announce` is called with a line that says so.
    """
    collect_garbage_seldom()
    try:
        _run(_serve(services, config, announce))
    except OutlastError as error:
        raise Failure(ExitCode.CANNOT_SERVE, error.message) from error
    except Exception as error:
        _log.exception("the server broke down")
        raise Failure(ExitCode.CANNOT_SERVE, f"the server broke down: {error}") from error


async def _serve(
    services: Sequence[object], config: ServerConfig, announce: Callable[[str], object]
) -> None:
    exit_code = None
    try:
        async with AsyncExitStack() as stack:
            opening = stack.enter_async_context(Server(services=services, config=config))
            if (server := await _unless_told_to_stop(opening)) is None:
                exit_code = ExitCode.OK
                return
            exit_code = ExitCode.CANNOT_SERVE  # unless it ends in peace
            # Said once `run` handles signals: who reads it may stop the server.
            asyncio.get_running_loop().call_soon(announce, _ready_line(server))
            await server.run()
        exit_code = ExitCode.OK
    finally:
        if exit_code is not None:
            _end_process_soon(exit_code)


async def _unless_told_to_stop(start: Coroutine[Any, Any, T]) -> T | None:
    """Return what a start returns; None if a signal came before: it may wait for its store."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    told = False

    def stop() -> None:
        nonlocal told
        told = True
        if task is not None:
            task.cancel()

    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        return await start
    except asyncio.CancelledError:
        if told:
            _log.info("told to stop before the start was over")
            return None
        raise
    finally:
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)


def _ready_line(server: Server) -> str:
    """Say where the server is, what it serves, and what it runs if that is not all of it."""
    config, operations = server.config, server.operations
    place = described(config.store) if "://" in config.store else config.store
    at = f" at {server.address}" if server.address else ""
    parts = [
        f"Ready{at}" if config.api or not at else f"Ready{at} for health checks",
        f"operations in {place}",
    ]
    if config.api:
        parts.append(f"serving {', '.join(operations.service_names)}")
    taken = operations.engine.taken
    if not config.api or len(taken) < len(operations.engine.methods):
        parts.append(f"running {', '.join(taken) or 'none'}")
    return ", ".join(parts)


def _end_process_soon(exit_code: ExitCode) -> None:
    """End the process even if tasks or threads that do not stop would keep it for ever.

    The server has closed: what they were doing has been given back.
    """

    def end() -> None:
        _log.warning("some work does not stop; the process ends without it")
        os._exit(exit_code)

    timer = threading.Timer(_LINGER_SECONDS, end)
    timer.daemon = True
    timer.start()
