"""Retrying operations: by their names, or all that a filter finds."""

from collections.abc import Sequence

import click

from outlast.cli.admin import AdminClient
from outlast.cli.everywhere import refuses_every_parent, say_refused
from outlast.cli.failure import Failure
from outlast.cli.render import print_json
from outlast.cli.text import printable
from outlast.domain.names import EVERY_PARENT

PAGE_SIZE = 500
"""How many operations one call retries at the most."""


def retry_named(admin: AdminClient, names: Sequence[str], *, as_json: bool) -> None:
    """Retry operations by their names, each whatever becomes of the others.

    Of several, every failure is shown, and the first one gives the exit code.
    """
    failures: list[Failure] = []
    for name in names:
        try:
            retried = admin.redrive(name)
        except Failure as failure:
            if len(names) == 1:
                raise
            Failure(failure.exit_code, f"{name}: {failure.lines[0]}", *failure.lines[1:]).show()
            failures.append(failure)
        else:
            say_retried(name, retried.name, as_json=as_json)
    if failures:
        click.get_current_context().exit(failures[0].exit_code)


def retry_found(
    admin: AdminClient, parent: str | None, filter_: str, limit: int | None, *, as_json: bool
) -> None:
    """Retry what a filter finds under a parent, and say what was done, also if it then fails.

    None is every parent, or what has no parent if the server refuses that.
    """
    asked = EVERY_PARENT if parent is None else parent
    retried = skipped = 0
    begun = False
    token = ""
    try:
        while limit is None or retried < limit:
            size = PAGE_SIZE if limit is None else min(PAGE_SIZE, limit - retried)
            try:
                page = admin.redrive_page(asked, filter_, size, token)
            except Failure as failure:
                if parent is not None or begun or not refuses_every_parent(failure, "parent"):
                    raise
                say_refused()
                parent = asked = ""
                continue
            begun = True
            for redriven in page.redriven_operations:
                say_retried(redriven.retried_from, redriven.name, as_json=as_json)
            retried += len(page.redriven_operations)
            skipped += page.skipped_count
            token = page.next_page_token
            if not token:
                return
        click.echo("There may be more: run it again, or give a higher --limit.", err=True)
    finally:
        if begun:
            click.echo(f"Retried {retried}, skipped {skipped}.", err=True)
        if skipped:
            click.echo(
                "Skipped were those that had been retried before, that need a resource which "
                "is in use, or that were deleted meanwhile.",
                err=True,
            )


def say_retried(old: str, new: str, *, as_json: bool, err: bool = False) -> None:
    """Print which operation does the work of another one again."""
    if as_json:
        print_json({"name": new, "retriedFrom": old})
    else:
        click.echo(f"{printable(old)} is retried as {printable(new)}", err=err)
