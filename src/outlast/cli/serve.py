"""`outlast serve`: run a server."""

import ipaddress
import logging
import os
import re
from datetime import timedelta
from pathlib import Path

import click

from outlast.cli.connection import DEFAULT_ADDRESS
from outlast.cli.loading import load_service
from outlast.cli.parameters import (
    EnvironmentOption,
    count,
    engine_setting,
    finite_duration,
    positive_duration,
)

SCRIPT_SERVICE = "outlast_script:ScriptService"

_LISTEN = re.compile(r"(?P<host>[^\[\]:]+|\[[0-9a-fA-F:.]+\]):(?P<port>[0-9]{1,5})")
_MAX_PORT = 65535


@click.command(context_settings={"show_default": True})
@click.option(
    "--store",
    default="outlast.db",
    cls=EnvironmentOption,
    envvar="OUTLAST_STORE",
    metavar="PATH|URL|memory:",
    help="Where operations are kept: an SQLite file, made if it is not there; a database of "
    "PostgreSQL, as postgresql://USER@HOST/DATABASE; or memory: to keep them in this process only.",
)
@click.option(
    "--listen",
    default=DEFAULT_ADDRESS,
    cls=EnvironmentOption,
    envvar="OUTLAST_LISTEN",
    metavar="HOST:PORT",
    help="Where to listen; port 0 takes a free one. Also unix:PATH.",
)
@click.option(
    "--service",
    "services",
    multiple=True,
    cls=EnvironmentOption,
    envvar="OUTLAST_SERVICE",
    metavar="MODULE:CLASS",
    help="A service to serve, such as outlast_imaging:ImagingService. Repeatable; in the "
    "environment separated by spaces.",
)
@click.option(
    "--script",
    is_flag=True,
    cls=EnvironmentOption,
    envvar="OUTLAST_SCRIPT",
    help="Serve the script service too, whose operations do what they are told. For tests.",
)
@click.option(
    "--insecure",
    is_flag=True,
    cls=EnvironmentOption,
    envvar="OUTLAST_INSECURE",
    help="Allow listening beyond this machine without TLS.",
)
@click.option(
    "--tls-cert",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    cls=EnvironmentOption,
    envvar="OUTLAST_TLS_CERT",
    help="Serve by TLS: the certificate chain, a PEM file.",
)
@click.option(
    "--tls-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    cls=EnvironmentOption,
    envvar="OUTLAST_TLS_KEY",
    help="The private key that belongs to it, a PEM file.",
)
@click.option(
    "--concurrency",
    type=count,
    default="64",
    metavar="COUNT",
    cls=EnvironmentOption,
    envvar="OUTLAST_CONCURRENCY",
    help="How many operations run at the same time.",
)
@click.option(
    "--lease",
    type=positive_duration,
    default="30s",
    metavar="DURATION",
    cls=EnvironmentOption,
    envvar="OUTLAST_LEASE",
    help="How long the operations of a server that died wait until they are run again.",
)
@click.option(
    "--grace",
    type=finite_duration,
    default="20s",
    metavar="DURATION",
    cls=EnvironmentOption,
    envvar="OUTLAST_GRACE",
    help="How long running operations may take to end when the server stops.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    type=engine_setting,
    cls=EnvironmentOption,
    envvar="OUTLAST_SET",
    metavar="NAME=VALUE",
    help="Another setting of outlast.EngineSettings, such as max_pending=500 or max_wait=30s. "
    "Repeatable; in the environment separated by spaces.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    cls=EnvironmentOption,
    envvar="OUTLAST_LOG_LEVEL",
    help="What to log, on stderr.",
)
def serve(
    *,
    store: str,
    listen: str,
    services: tuple[str, ...],
    script: bool,
    insecure: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    concurrency: int,
    lease: float,
    grace: float,
    settings: tuple[tuple[str, int | timedelta], ...],
    log_level: str,
) -> None:
    """Serve services with their long-running operations.

    A service is a class, and is made by its from_environment(os.environ) if it has
    that, else without arguments. One line on stdout says when the server is ready, and
    where. SIGTERM and Ctrl-C stop it: running operations have --grace to end. What is left
    is told to stop, abandoned if it has not after 5 s, and goes on when the server is
    started again. A second one stops it at once.
    """
    if (tls_cert is None) is not (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key belong together: give both.")
    _check_store(store)
    _check_listen(listen, encrypted=tls_cert is not None, insecure=insecure)
    references = [*services, *([SCRIPT_SERVICE] if script else [])]
    if not references:
        raise click.UsageError(
            "nothing to serve: give --service module:Class, such as "
            "outlast_imaging:ImagingService, or --script."
        )
    logging.basicConfig(
        level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # gRPC takes a tenth of a second to import, which --help and completion do without.
    from outlast.cli.serving import serve_until_stopped  # noqa: PLC0415

    serve_until_stopped(
        [load_service(reference, os.environ) for reference in references],
        store=store,
        listen=listen,
        tls_files=(tls_cert, tls_key) if tls_cert and tls_key else None,
        grace=timedelta(seconds=grace),
        settings={
            "concurrency": concurrency,
            "lease": timedelta(seconds=lease),
            **dict(settings),
        },
    )


def _check_store(store: str) -> None:
    """Refuse what is hardly meant as the name of a file."""
    if not store.strip():
        raise click.BadParameter(
            "give a path to an SQLite file, or memory: with its colon.", param_hint="'--store'"
        )
    if store == "memory":
        raise click.BadParameter(
            "memory: has a colon; for a file of this name give ./memory.", param_hint="'--store'"
        )


def _check_listen(listen: str, *, encrypted: bool, insecure: bool) -> None:
    """Refuse what is no address, and what strangers could listen in on."""
    if listen.startswith("unix:"):
        return
    match = _LISTEN.fullmatch(listen)
    if match is None or int(match["port"]) > _MAX_PORT:
        raise click.BadParameter(
            f"{listen!r} is not host:port, such as {DEFAULT_ADDRESS}.", param_hint="'--listen'"
        )
    if not (encrypted or insecure or _is_loopback(match["host"].strip("[]"))):
        raise click.UsageError(
            f"{listen} can be reached from other machines: give --tls-cert and --tls-key, or "
            "--insecure if the network is to be trusted."
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
