"""Running a server until it is stopped."""

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from outlast.cli.exit_codes import ExitCode
from outlast.cli.failure import Failure
from outlast.domain.errors import OutlastError
from outlast.engine.settings import EngineSettings
from outlast.server.app import Server
from outlast.server.config import ServerConfig, TlsFiles
from outlast.stores.addresses import described

_run: Callable[[Coroutine[Any, Any, None]], None]
try:
    from uvloop import run as _run  # faster, if the extra is installed
except ImportError:
    _run = asyncio.run

_log = logging.getLogger(__name__)

_LINGER_SECONDS = 2.0
"""How long the process may take to end when its server has closed."""


def serve_until_stopped(
    services: Sequence[object],
    *,
    store: str,
    listen: str,
    tls_files: tuple[Path, Path] | None,
    grace: timedelta,
    settings: Mapping[str, Any],
) -> None:
    """Serve until a signal comes; raise Failure if the server cannot start or breaks down.

    `tls_files` are the certificate chain and its key, `settings` those of the engine.
    """
    try:
        config = ServerConfig(
            store=store,
            listen=listen,
            tls=TlsFiles(certificate=tls_files[0], key=tls_files[1]) if tls_files else None,
            grace=grace,
            engine=EngineSettings(**settings),
        )
        _run(_serve(services, config))
    except OutlastError as error:
        raise Failure(ExitCode.CANNOT_SERVE, error.message) from error
    except Exception as error:
        _log.exception("the server broke down")
        raise Failure(ExitCode.CANNOT_SERVE, f"the server broke down: {error}") from error


async def _serve(services: Sequence[object], config: ServerConfig) -> None:
    exit_code = None
    try:
        async with Server(services=services, config=config) as server:
            exit_code = ExitCode.CANNOT_SERVE  # unless it ends in peace
            names = ", ".join(server.operations.service_names)
            place = described(config.store) if "://" in config.store else config.store
            ready = f"Ready at {server.address}, operations in {place}, serving {names}"
            # Said once `run` handles signals: who reads it may stop the server.
            asyncio.get_running_loop().call_soon(click.echo, ready)
            await server.run()
        exit_code = ExitCode.OK
    finally:
        if exit_code is not None:
            _end_process_soon(exit_code)


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
