"""`outlast migrate-store`: move from one store to another."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from outlast.cli.exit_codes import ExitCode
from outlast.cli.failure import Failure
from outlast.cli.text import printable
from outlast.domain.errors import OutlastError

if TYPE_CHECKING:
    from outlast.server.migration import Tally
    from outlast.stores.archive import Refusal

_PERCENT_OF_A_LINE = 10


@click.command("migrate-store")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
def migrate_store(source: str, target: str) -> None:
    """Carry every operation from one store to another.

    FROM and TO are what `serve --store` takes: an SQLite file, or a database of PostgreSQL
    as postgresql://USER@HOST/DATABASE. What waits, runs or has ended arrives with its request,
    its steps and its attempts; leases are kept, so what was running is taken over when they
    have run out. FROM stays as it is. No server may have either store open.

    What is in TO already is left as it is. An interrupted run is continued by the same
    command; start servers on TO once it has ended with exit code 0, and none on FROM
    after that.
    """
    # Stores and their databases take time to import, which --help and completion do without.
    from outlast.server import migration  # noqa: PLC0415

    names = [migration.described_store(name) for name in (source, target)]
    try:
        with _reporter() as report:
            tally = migration.migrate_store(source, target, report)
    except OutlastError as error:
        raise Failure(ExitCode.NOT_MIGRATED, error.message) from error
    click.echo(
        f"{tally.total} operations in {names[0]}: {tally.added} added to {names[1]}, "
        f"{tally.present} there already, {tally.refused} refused"
    )
    if not tally.secret_kept:
        click.echo(
            f"{names[1]} had operations before and keeps its own secret: "
            f"page tokens from {names[0]} are not good for it.",
            err=True,
        )
    if not tally.complete:
        raise Failure(
            ExitCode.NOT_MIGRATED,
            f"{tally.refused} operations are not in {names[1]}",
            "what is said above of each stands in the way; nothing was overwritten",
        )


@contextmanager
def _reporter() -> "Iterator[Callable[[Tally, Sequence[Refusal]], None]]":
    """Open what tells of progress on stderr: a bar on a terminal, otherwise a line at times."""
    if not sys.stderr.isatty():
        yield _Lines().show
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("Migrating", total=None)

        def show(tally: "Tally", refused: "Sequence[Refusal]") -> None:
            for refusal in refused:
                bar.console.print(_told(refusal), markup=False, highlight=False)
            bar.update(task, total=tally.total, completed=tally.seen)

        yield show


class _Lines:
    def __init__(self) -> None:
        self._next_percent = 0

    def show(self, tally: "Tally", refused: "Sequence[Refusal]") -> None:
        for refusal in refused:
            click.echo(_told(refusal), err=True)
        percent = 100 * tally.seen // tally.total
        if percent >= self._next_percent:
            click.echo(f"{tally.seen} of {tally.total} operations", err=True)
            self._next_percent = percent + _PERCENT_OF_A_LINE


def _told(refusal: "Refusal") -> str:
    return printable(f"{refusal.name}: {refusal.reason}")
