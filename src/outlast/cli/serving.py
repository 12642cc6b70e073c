"""Running a server until it is stopped."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
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

_run: Callable[[Coroutine[Any, Any, None]], None]
try:
    from uvloop import run as _run  # faster, if the extra is installed
except ImportError:
    _run = asyncio.run

_log = logging.getLogger(__name__)


def serve_until_stopped(
    services: Sequence[object],
    *,
    store: str,
    listen: str,
    tls_files: tuple[Path, Path] | None,
    concurrency: int,
    lease: timedelta,
    grace: timedelta,
) -> None:
    """Serve until a signal comes; raise Failure if the server cannot start or breaks down.

    `tls_files` are the certificate chain and its key.
    """
    try:
        config = ServerConfig(
            store=store,
            listen=listen,
            tls=TlsFiles(certificate=tls_files[0], key=tls_files[1]) if tls_files else None,
            grace=grace,
            engine=EngineSettings(concurrency=concurrency, lease=lease),
        )
        _run(_serve(services, config))
    except OutlastError as error:
        raise Failure(ExitCode.CANNOT_SERVE, error.message) from error
    except Exception as error:
        _log.exception("the server broke down")
        raise Failure(ExitCode.CANNOT_SERVE, f"the server broke down: {error}") from error


async def _serve(services: Sequence[object], config: ServerConfig) -> None:
    async with Server(services=services, config=config) as server:
        names = ", ".join(server.operations.service_names)
        ready = f"Ready at {server.address}, operations in {config.store}, serving {names}"
        # Said once `run` handles signals: who reads it may stop the server.
        asyncio.get_running_loop().call_soon(click.echo, ready)
        await server.run()
