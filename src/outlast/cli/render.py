"""How operations look on a terminal, in plain lines and as JSON."""

import sys
from collections.abc import Iterable, Iterator
from datetime import datetime

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from outlast.cli.snapshot import Json, Snapshot
from outlast.cli.text import json_text, printable

_STYLES = {"SUCCEEDED": "green", "FAILED": "red", "CANCELLED": "yellow", "RUNNING": "cyan"}


def print_json(document: Json) -> None:
    """Print one JSON document on one line."""
    click.echo(json_text(document))


def print_result(document: Json) -> None:
    """Print one JSON document: on a terminal with indents, otherwise on one line."""
    click.echo(json_text(document, indent=2 if sys.stdout.isatty() else None))


def print_operations(snapshots: Iterable[Snapshot]) -> None:
    """Print operations: as a table on a terminal, otherwise a line for each with tabs."""
    if sys.stdout.isatty():
        _print_table(snapshots)
        return
    for snapshot in snapshots:
        click.echo("\t".join(_cells(snapshot)))


def print_operation(snapshot: Snapshot) -> None:
    """Print all that is known of one operation, a line for each fact."""
    for label, text in _facts(snapshot):
        click.echo(f"{label}: {text}")


def _print_table(snapshots: Iterable[Snapshot]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("NAME", "STATE", "PROGRESS", "METHOD", "CREATED"):
        table.add_column(heading, overflow="fold")
    for snapshot in snapshots:
        name, state, *rest = _cells(snapshot)
        # Text, not str: what a server sends is not markup.
        table.add_row(Text(name), Text(state, _STYLES.get(state, "")), *map(Text, rest))
    Console().print(table)


def _cells(snapshot: Snapshot) -> tuple[str, str, str, str, str]:
    return (
        printable(snapshot.name),
        snapshot.state,
        printable(str(snapshot.progress or "")),
        printable(snapshot.verb),
        _time(snapshot.create_time),
    )


def _facts(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    name, state, progress, verb, created = _cells(snapshot)
    yield "name", name
    yield "state", state
    for label, text in (("method", verb), ("created", created), ("progress", progress)):
        if text:
            yield label, text
    if snapshot.error is not None:
        yield "error", printable(snapshot.error.line)
        for detail in snapshot.error.details:
            yield "error detail", printable(detail)
    for label in ("metadata", "response"):
        if label in snapshot.document:
            yield label, json_text(snapshot.document[label])


def _time(moment: datetime | None) -> str:
    return moment.isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z") if moment else ""
