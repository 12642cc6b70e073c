"""Telling the person who waits how far an operation is, on stderr."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
import rich.progress
from rich.console import Console
from rich.progress import (
    BarColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from outlast.cli.snapshot import Progress, Snapshot
from outlast.cli.text import printable
from outlast.cli.waiting import Reporter


@contextmanager
def progress_reporter(*, quiet: bool = False) -> Iterator[Reporter]:
    """Open what fits: a bar on a terminal, otherwise plain lines, or if quiet just notices."""
    if quiet or not sys.stderr.isatty():
        yield _Lines(quiet=quiet)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[state]}", markup=False),
        BarColumn(complete_style="cyan", finished_style="green"),  # 16 colours have these
        TaskProgressColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        TimeElapsedColumn(),
    )
    with rich.progress.Progress(*columns, console=Console(stderr=True)) as bar:
        yield _Bar(bar)


class _Lines:
    """A line whenever something has changed."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._last = ""

    def show(self, snapshot: Snapshot) -> None:
        line = printable(f"{snapshot.name}: {snapshot.state} {snapshot.progress or ''}")
        if snapshot.retry:
            line = printable(f"{line} ({snapshot.retry})")
        if line != self._last and not self._quiet:
            click.echo(line, err=True)
        self._last = line

    def notice(self, text: str) -> None:
        click.echo(printable(text), err=True)


class _Bar:
    """One bar, which moves without an end while nothing is known of the total."""

    def __init__(self, bar: rich.progress.Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None, state="", text="")
        self._retry = ""

    def show(self, snapshot: Snapshot) -> None:
        if snapshot.retry and snapshot.retry != self._retry:
            self._retry = snapshot.retry
            self.notice(self._retry)
        progress = snapshot.progress or Progress()
        total, completed = progress.total or None, progress.completed
        if snapshot.done and snapshot.error is None:
            total = completed = total or 1
        self._bar.update(
            self._task,
            state=snapshot.state,
            text=printable(progress.text),
            total=total,
            completed=completed,
        )

    def notice(self, text: str) -> None:
        self._bar.console.print(printable(text), markup=False, highlight=False)
