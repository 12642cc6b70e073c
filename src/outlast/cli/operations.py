"""`outlast operations`: look after the operations of any google.longrunning server."""

import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import click

from outlast.cli.connection import Connection, connection_options
from outlast.cli.failure import InvalidArgumentFailure
from outlast.cli.outcome import see_through
from outlast.cli.parameters import NEVER, answer_timeout, count, duration
from outlast.cli.render import print_attempts, print_json, print_operation, print_operations
from outlast.cli.snapshot import Snapshot
from outlast.cli.text import printable

if TYPE_CHECKING:
    from outlast.cli.client import OperationsClient

_ROOT = "operations"
DEFAULT_LIMIT = 50
DEAD_LETTERS = "dead_letter = true"

_NAME = re.compile(r"(?:.*/)?operations/[^/]+")
"""The names of operations, and no parent's."""

_timeout = click.option(
    "--timeout",
    type=answer_timeout,
    default="30s",
    show_default=True,
    metavar="DURATION",
    help="How long to wait for each answer of the server, 30 s at most.",
)
_dead = click.option("--dead", is_flag=True, help="Only dead letters: 'dead_letter = true'.")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def _connect(connection: Connection, timeout: float) -> "AbstractContextManager[OperationsClient]":
    # gRPC takes a tenth of a second to import, which --help and completion do without.
    from outlast.cli.client import connect  # noqa: PLC0415

    return connect(connection, timeout)


@click.group()
def operations() -> None:
    """List, get, wait for, cancel, delete and retry operations.

    Of any server that offers google.longrunning.Operations; attempts and retries of
    Outlast servers.
    """


@operations.command("list")
@click.argument("parent", default="")
@click.option(
    "--filter", "filter_", default="", metavar="AIP-160", help="Which ones, such as 'done = false'."
)
@_dead
@click.option("--page-size", type=count, metavar="COUNT", help="How many to ask for at a time.")
@click.option(
    "--limit",
    type=count,
    metavar="COUNT",
    help=f"How many to print at most.  [default: {DEFAULT_LIMIT}]",
)
@click.option("--all", "everything", is_flag=True, help="Print all, however many there are.")
@_as_json
@_timeout
@connection_options
def list_operations(
    *,
    connection: Connection,
    parent: str,
    filter_: str,
    dead: bool,
    page_size: int | None,
    limit: int | None,
    everything: bool,
    as_json: bool,
    timeout: float,
) -> None:
    """List the operations under PARENT, or those that have no parent.

    With --dead and no PARENT, the dead letters under every parent; there is no other
    list across parents. On a terminal as a table, with --dead of what they failed with;
    otherwise a line for each operation with its name, state, progress, method and time of
    creation, separated by tabs. With --json a line of JSON for each operation.
    """
    if everything and limit is not None:
        raise click.UsageError("--limit and --all contradict each other: give one of them.")
    _check_parent(parent, f"show it with: {connection.command('get', parent)}")
    with _connect(connection, timeout) as client, _narrowed(filter_, dead=dead) as narrowed:
        # As in _connect: it imports what gRPC needs.
        from outlast.cli.everywhere import list_everywhere  # noqa: PLC0415

        if dead and not parent:
            found = list_everywhere(client, narrowed, page_size or 0)
        else:
            found = client.list(parent or _ROOT, narrowed, page_size or 0)
        shown = found if everything else _up_to(limit or DEFAULT_LIMIT, found)
        if as_json:
            for snapshot in shown:
                print_json(snapshot.document)
        else:
            print_operations(shown, dead=dead)


def _check_parent(parent: str, advice: str) -> None:
    """Raise UsageError for the name of an operation; the server would find nothing under it."""
    if _NAME.fullmatch(parent):
        raise click.UsageError(f"{parent} is no PARENT but an operation: {advice}")


@contextmanager
def _narrowed(filter_: str, *, dead: bool) -> Iterator[str]:
    """Yield what is to be sent for a filter; if that is refused, the error shows it.

    What was given comes first, so that the positions in an error are positions in it. No
    parentheses are needed: nothing binds looser than AND.
    """
    if not (dead and filter_.strip()):
        yield DEAD_LETTERS if dead else filter_
        return
    sent = f"{filter_} AND {DEAD_LETTERS}"
    try:
        yield sent
    except InvalidArgumentFailure as failure:
        if "filter" in failure.fields:
            failure.add_detail(f"the filter that was sent: {sent}")
        raise


def _up_to(limit: int, snapshots: Iterable[Snapshot]) -> Iterator[Snapshot]:
    for number, snapshot in enumerate(snapshots):
        if number == limit:
            click.echo(f"There are more than {limit}: give a higher --limit, or --all.", err=True)
            return
        yield snapshot


@operations.command("get")
@click.argument("name")
@_as_json
@_timeout
@connection_options
def get_operation(connection: Connection, name: str, as_json: bool, timeout: float) -> None:
    """Show the operation NAME as it is now."""
    with _connect(connection, timeout) as client:
        snapshot = client.get(name)
    if as_json:
        print_json(snapshot.document)
    else:
        print_operation(snapshot)


@operations.command("attempts")
@click.argument("name")
@_as_json
@_timeout
@connection_options
def list_attempts(connection: Connection, name: str, as_json: bool, timeout: float) -> None:
    """Show the attempts to do the work of the operation NAME, the oldest first.

    Of Outlast servers. On a terminal as a table; otherwise a line for each attempt with
    its number, outcome, start, end, worker, error and whether it counted, separated by
    tabs. With --json a line of JSON for each attempt. One that was lost with its worker
    may not count; the next one then has its number.
    """
    with _connect(connection, timeout) as client:
        attempts = client.admin.attempts(name)
    if as_json:
        for attempt in attempts:
            print_json(attempt.document)
    else:
        print_attempts(attempts)


@operations.command("retry")
@click.argument("names", nargs=-1, metavar="NAME... | [PARENT]")
@click.option(
    "--filter",
    "filter_",
    default="",
    metavar="AIP-160",
    help="Retry what is found under PARENT, such as 'error.code = UNAVAILABLE'.",
)
@_dead
@click.option(
    "--limit",
    type=count,
    metavar="COUNT",
    help="How many to retry at most, with --filter and --dead.  [default: all]",
)
@click.option("--wait", is_flag=True, help="Wait for the new operation, and print its result.")
@_as_json
@_timeout
@connection_options
def retry_operations(
    *,
    connection: Connection,
    names: tuple[str, ...],
    filter_: str,
    dead: bool,
    limit: int | None,
    wait: bool,
    as_json: bool,
    timeout: float,
) -> None:
    """Do the work of operations that failed or were cancelled again.

    Of Outlast servers. Each is retried as a new operation, which goes on after the recorded
    steps of the old one. Give their NAMEs, all of which are tried; or --filter or --dead, for
    what is found under PARENT and was not retried before; without a PARENT under every one
    with --dead, otherwise among what has none. With --json a line of JSON for each.
    """
    bulk = dead or bool(filter_.strip())
    _check_retry(connection, names, bulk=bulk, limit=limit, wait=wait)
    with _connect(connection, timeout) as client:
        # As above: it imports what gRPC needs.
        from outlast.cli.retrying import retry_found, retry_named, say_retried  # noqa: PLC0415

        if bulk:
            parent = names[0] if names else None if dead else ""
            with _narrowed(filter_, dead=dead) as narrowed:
                retry_found(client.admin, parent, narrowed, limit, as_json=as_json)
        elif wait:
            retried = client.admin.redrive(names[0])
            if not as_json:
                say_retried(names[0], retried.name, as_json=False, err=True)
            see_through(client, retried.name, connection, as_json=as_json)
        else:
            retry_named(client.admin, names, as_json=as_json)


def _check_retry(
    connection: Connection,
    names: tuple[str, ...],
    *,
    bulk: bool,
    limit: int | None,
    wait: bool,
) -> None:
    """Raise UsageError for what contradicts itself, or says too little."""
    if not bulk and not names:
        raise click.UsageError("give the NAMEs of operations, --filter or --dead.")
    if not bulk and limit is not None:
        raise click.UsageError("--limit is for --filter and --dead.")
    if bulk and len(names) > 1:
        raise click.UsageError("with --filter and --dead, give one PARENT at most.")
    for name in names:
        if bulk:
            _check_parent(name, f"retry it with: {connection.command('retry', name)}")
        elif not _NAME.fullmatch(name):
            raise click.UsageError(
                f"{name!r} is not the NAME of an operation; for what is found under a PARENT "
                "give --filter or --dead."
            )
    if wait and (bulk or len(names) > 1):
        raise click.UsageError("--wait is for one NAME.")


@operations.command("wait")
@click.argument("name")
@click.option(
    "--timeout",
    type=duration,
    default=NEVER,
    show_default=True,
    metavar="DURATION",
    help="Give up after so long.",
)
@_as_json
@connection_options
def wait_operation(connection: Connection, name: str, timeout: float, as_json: bool) -> None:
    """Wait until the operation NAME is done, and print its result.

    How far it is goes to stderr: a bar on a terminal, otherwise a line for each
    change. With --json only the finished operation is printed. Ctrl-C ends the
    waiting, not the operation. A server that is away, from the start or later, is given
    up after a minute, whatever the --timeout.
    """
    with _connect(connection, timeout) as client:
        see_through(client, name, connection, timeout=timeout, as_json=as_json)


@operations.command("cancel")
@click.argument("name")
@_timeout
@connection_options
def cancel_operation(connection: Connection, name: str, timeout: float) -> None:
    """Ask for the operation NAME to be cancelled.

    It may take a while until the work has stopped, and it may still succeed.
    """
    with _connect(connection, timeout) as client:
        snapshot = client.get(name)
        if not snapshot.done:
            client.cancel(name)
    shown = printable(name)
    if snapshot.done:
        click.echo(f"{shown} is done already ({snapshot.state}): nothing is left to cancel.")
    else:
        again = connection.command("wait", name)
        click.echo(f"Cancellation requested. See the outcome with: {again}")


@operations.command("delete")
@click.argument("name")
@_timeout
@connection_options
def delete_operation(connection: Connection, name: str, timeout: float) -> None:
    """Have the server forget the operation NAME and its result.

    The work, if it is not done, is not cancelled.
    """
    with _connect(connection, timeout) as client:
        snapshot = client.get(name)
        client.delete(name)
    click.echo(f"Deleted {printable(name)}.")
    if not snapshot.done:
        click.echo(f"It was {snapshot.state}, and is not cancelled; nobody will see its result.")
