"""The options that say which server to talk to, the same for every client command."""

import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from outlast.cli.parameters import EnvironmentOption, address_of_server, header
from outlast.cli.text import printable

DEFAULT_ADDRESS = "127.0.0.1:50051"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Which server to talk to, and how."""

    address: str
    tls: bool = False
    ca_cert: Path | None = None
    headers: tuple[tuple[str, str], ...] = ()
    given: tuple[str, ...] = ()
    """The options of it that the command line had: no headers, which may be secrets."""

    def command(self, verb: str, name: str) -> str:
        """Return how to run a command of `outlast operations` on an operation of this server."""
        return shlex.join(["outlast", "operations", verb, printable(name), *self.given])


def connection_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a connection; it receives them as `connection`."""

    @click.option(
        "--address",
        default=DEFAULT_ADDRESS,
        type=address_of_server,
        cls=EnvironmentOption,
        envvar="OUTLAST_ADDRESS",
        show_default=True,
        metavar="HOST:PORT",
        help="The server.",
    )
    @click.option(
        "--tls",
        is_flag=True,
        cls=EnvironmentOption,
        envvar="OUTLAST_TLS",
        help="Talk to it by TLS.",
    )
    @click.option(
        "--ca-cert",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        cls=EnvironmentOption,
        envvar="OUTLAST_CA_CERT",
        help="A PEM file with the authorities to trust, in place of the system's. Implies --tls.",
    )
    @click.option(
        "-H",
        "--header",
        "headers",
        type=header,
        metavar="NAME:VALUE",
        multiple=True,
        help="A header to send, such as 'authorization: Bearer …'. Repeatable.",
    )
    @wraps(command)
    def with_connection(
        address: str,
        tls: bool,
        ca_cert: Path | None,
        headers: tuple[tuple[str, str], ...],
        **arguments: Any,
    ) -> None:
        # gRPC reads it when it is imported. What it has to say, a Failure says better.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        connection = Connection(
            address=address,
            tls=tls or ca_cert is not None,
            ca_cert=ca_cert,
            headers=headers,
            given=tuple(_given(click.get_current_context())),
        )
        command(connection=connection, **arguments)

    return with_connection


def _given(context: click.Context) -> Iterator[str]:
    """Return what is to be repeated for another command to reach the same server."""
    for name in ("address", "tls", "ca_cert"):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            yield f"--{name.replace('_', '-')}"
            if (value := context.params[name]) is not True:
                yield str(value)
