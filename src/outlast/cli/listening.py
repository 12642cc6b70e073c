"""What the command line says of the address to listen on, checked before it is used."""

import ipaddress
import re

import click

from outlast.cli.connection import DEFAULT_ADDRESS

_LISTEN = re.compile(r"(?P<host>[^\[\]:]+|\[[0-9a-fA-F:.]+\]):(?P<port>[0-9]{1,5})")
_MAX_PORT = 65535


def check_listen(listen: str) -> None:
    """Raise BadParameter for what is no address."""
    if listen.startswith("unix:"):
        return
    match = _LISTEN.fullmatch(listen)
    if match is None or int(match["port"]) > _MAX_PORT:
        raise click.BadParameter(
            f"{listen!r} is not host:port, such as {DEFAULT_ADDRESS}.", param_hint="'--listen'"
        )


def is_open_to_others(listen: str) -> bool:
    """Whether other machines may reach an address."""
    if listen.startswith("unix:"):
        return False
    host = listen.rpartition(":")[0].strip("[]")
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"
