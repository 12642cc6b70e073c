"""The options that `outlast serve` and `outlast worker` share: what is run, and how."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from functools import wraps
from typing import Any

import click

from outlast.cli.exit_codes import ExitCode
from outlast.cli.failure import Failure
from outlast.cli.loading import load_service
from outlast.cli.parameters import (
    EnvironmentOption,
    count,
    engine_setting,
    finite_duration,
    positive_duration,
)
from outlast.domain.errors import ConfigurationError
from outlast.engine.settings import EngineSettings
from outlast.server.config import ServerConfig
from outlast.stores.addresses import is_conninfo

SCRIPT_SERVICE = "outlast_script:ScriptService"

_MEMORY = "memory:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a process was told of the operations that it runs."""

    store: str
    store_direct: str | None
    store_wait: float
    services: tuple[str, ...]
    script: bool
    methods: tuple[str, ...]
    except_methods: tuple[str, ...]
    concurrency: int
    lease: float
    grace: float
    settings: tuple[tuple[str, int | timedelta], ...]
    log_level: str

    def __post_init__(self) -> None:
        _check_store(self.store)
        if self.methods and self.except_methods:
            raise click.UsageError("--method and --except-method: give one of them.")
        if not (self.services or self.script):
            raise click.UsageError(
                "no service: give --service module:Class, such as "
                "outlast_imaging:ImagingService, or --script."
            )

    def require_shared_store(self, role: str) -> None:
        """Raise UsageError if no other process can see the operations."""
        if self.store == _MEMORY:
            raise click.BadParameter(
                f"no other process sees what is in {_MEMORY}, which {role} depends on; "
                "give a file or a database.",
                param_hint="'--store'",
            )

    def start_log(self, *, one_of_several: bool = False) -> None:
        """Have the log written to stderr; one that several processes write says which it was."""
        process = "%(process)d " if one_of_several else ""
        logging.basicConfig(
            level=self.log_level.upper(),
            format=f"%(asctime)s {process}%(levelname)s %(name)s: %(message)s",
        )

    def load_services(self) -> Sequence[object]:
        """Make the services; raise Failure if one cannot be made."""
        references = [*self.services, *([SCRIPT_SERVICE] if self.script else [])]
        return [load_service(reference, os.environ) for reference in references]

    def config(self, **role: Any) -> ServerConfig:
        """Return the configuration, with the fields that make the role; Failure if it is none."""
        engine: dict[str, Any] = {
            "concurrency": self.concurrency,
            "lease": timedelta(seconds=self.lease),
            **dict(self.settings),
        }
        try:
            return ServerConfig(
                store=self.store,
                store_direct=self.store_direct,
                store_wait=timedelta(seconds=self.store_wait),
                grace=timedelta(seconds=self.grace),
                engine=EngineSettings(**engine),
                methods=self.methods or None,
                except_methods=self.except_methods,
                **role,
            )
        except ConfigurationError as error:
            raise Failure(ExitCode.CANNOT_SERVE, error.message) from error


def work_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of the work; it receives them as `work`."""

    @click.option(
        "--store",
        default="outlast.db",
        cls=EnvironmentOption,
        envvar="OUTLAST_STORE",
        metavar="PATH|URL|memory:",
        help="Where operations are kept: an SQLite file, made if it is not there; a database of "
        "PostgreSQL, as postgresql://USER@HOST/DATABASE; or memory: to keep them in this process "
        "only.",
    )
    @click.option(
        "--store-direct",
        cls=EnvironmentOption,
        envvar="OUTLAST_STORE_DIRECT",
        metavar="URL",
        help="The database's own address, if --store leads to a pooler of its transactions, such "
        "as PgBouncer.",
    )
    @click.option(
        "--store-wait",
        type=finite_duration,
        default="60s",
        metavar="DURATION",
        cls=EnvironmentOption,
        envvar="OUTLAST_STORE_WAIT",
        help="How long to wait at the start for a database that is not up yet.",
    )
    @click.option(
        "--service",
        "services",
        multiple=True,
        cls=EnvironmentOption,
        envvar="OUTLAST_SERVICE",
        metavar="MODULE:CLASS",
        help="A service, such as outlast_imaging:ImagingService. Repeatable; in the environment "
        "separated by spaces.",
    )
    @click.option(
        "--script",
        is_flag=True,
        cls=EnvironmentOption,
        envvar="OUTLAST_SCRIPT",
        help="The script service too, whose operations do what they are told. For tests.",
    )
    @click.option(
        "--method",
        "methods",
        multiple=True,
        cls=EnvironmentOption,
        envvar="OUTLAST_METHOD",
        metavar="SERVICE/METHOD",
        help="A method whose operations are run here, by its full name, such as "
        "outlastapi.imaging.v1.ImagingService/ProcessImage; all methods of the services if none is "
        "given. Repeatable.",
    )
    @click.option(
        "--except-method",
        "except_methods",
        multiple=True,
        cls=EnvironmentOption,
        envvar="OUTLAST_EXCEPT_METHOD",
        metavar="SERVICE/METHOD",
        help="A method whose operations are left to other processes. Repeatable.",
    )
    @click.option(
        "--concurrency",
        type=count,
        default="64",
        metavar="COUNT",
        cls=EnvironmentOption,
        envvar="OUTLAST_CONCURRENCY",
        help="How many operations run at the same time, in each process.",
    )
    @click.option(
        "--lease",
        type=positive_duration,
        default="30s",
        metavar="DURATION",
        cls=EnvironmentOption,
        envvar="OUTLAST_LEASE",
        help="How long the operations of a process that died wait until they are run again.",
    )
    @click.option(
        "--grace",
        type=finite_duration,
        default="20s",
        metavar="DURATION",
        cls=EnvironmentOption,
        envvar="OUTLAST_GRACE",
        help="How long running operations may take to end when the process stops.",
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
    @wraps(command)
    def with_work(**arguments: Any) -> None:
        work = Work(**{field.name: arguments.pop(field.name) for field in fields(Work)})
        command(work=work, **arguments)

    return with_work


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
    if is_conninfo(store):
        raise click.BadParameter(
            "give the URL of a database, postgresql://…, and not its key words.",
            param_hint="'--store'",
        )
