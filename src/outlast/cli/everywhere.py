"""Operations under every parent, of servers that can list these and of those that cannot."""

from collections.abc import Iterator

import click

from outlast.cli.client import OperationsClient
from outlast.cli.exit_codes import ExitCode
from outlast.cli.failure import Failure, InvalidArgumentFailure
from outlast.cli.snapshot import Snapshot
from outlast.domain.names import EVERY_PARENT


def list_everywhere(client: OperationsClient, filter_: str, page_size: int) -> Iterator[Snapshot]:
    """Return what is under every parent; what is under none if the server refuses that."""
    found = client.list(EVERY_PARENT, filter_, page_size)
    try:
        first = next(found, None)
    except Failure as failure:
        if not refuses_every_parent(failure, "name"):
            raise
        say_refused()
        yield from client.list("operations", filter_, page_size)
        return
    if first is not None:
        yield first
        yield from found


def refuses_every_parent(failure: Failure, field: str) -> bool:
    """Whether a server that was sent EVERY_PARENT in a field may have failed for that."""
    if isinstance(failure, InvalidArgumentFailure):
        return not failure.fields or field in failure.fields
    return failure.exit_code is ExitCode.NOT_FOUND


def say_refused() -> None:
    """Tell the person that a list has less in it than was asked for."""
    click.echo("The server has no list across parents: only what has no parent is found.", err=True)
