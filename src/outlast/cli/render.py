"""How operations look on a terminal, in plain lines and as JSON."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

import click
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from outlast.cli.snapshot import Attempt, Json, Snapshot
from outlast.cli.text import json_text, printable, shown_time

_HEADINGS = ("NAME", "STATE", "PROGRESS", "METHOD", "CREATED")
_DEAD_HEADINGS = ("NAME", "ERROR", "METHOD", "CREATED")
_KEPT = 2
"""How many of these are shown however narrow the terminal is."""
_WIDEST_ERROR = 60
"""What of an error a list shows at the most."""

_ATTEMPT_HEADINGS = ("ATTEMPT", "OUTCOME", "STARTED", "ENDED", "WORKER", "ERROR")
_TIMES = slice(2, 4)
_WORKER = 4
_YEAR_WIDTH = 4
_DAY_WIDTH = 10
_WORKER_WIDTH = 8
_ERROR_WIDTH = 20
"""What an error has at the least: a terminal that is too narrow breaks the lines."""
_UNCOUNTED = "*"

_GAP = 2
_PROGRESS_WIDTH = 20
_STYLES = {"SUCCEEDED": "green", "FAILED": "red", "CANCELLED": "yellow", "RUNNING": "cyan"}
_STYLES["LOST"] = _STYLES["FAILED"]


def print_json(document: Json) -> None:
    """Print one JSON document on one line."""
    click.echo(json_text(document))


def print_result(document: Json) -> None:
    """Print one JSON document: on a terminal with indents, otherwise on one line."""
    click.echo(json_text(document, indent=2 if sys.stdout.isatty() else None))


def print_operations(snapshots: Iterable[Snapshot], *, dead: bool = False) -> None:
    """Print operations: as a table on a terminal, otherwise a line for each with tabs.

    A table of dead letters says what each failed with in place of its state and progress.
    """
    if not sys.stdout.isatty():
        for snapshot in snapshots:
            click.echo("\t".join(_cells(snapshot)))
        return
    rows = [(_dead_cells if dead else _short_cells)(snapshot) for snapshot in snapshots]
    if not rows:
        click.echo("No operations.", err=True)
    elif dead:
        _print_table(_DEAD_HEADINGS, _with_errors_cut(rows))
    else:
        _print_table(_HEADINGS, rows)


def print_attempts(attempts: Sequence[Attempt]) -> None:
    """Print attempts: as a table on a terminal, otherwise a line for each with tabs."""
    if not sys.stdout.isatty():
        for attempt in attempts:
            counted = "counted" if attempt.counted else "uncounted"
            click.echo("\t".join((*_attempt_cells(attempt), counted)))
        return
    if not attempts:
        click.echo("No attempts.", err=True)
        return
    console = Console()
    rows = _attempt_rows(attempts, console.width)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for heading in _ATTEMPT_HEADINGS:
        table.add_column(heading, no_wrap=heading != "ERROR", overflow="fold")
    for number, outcome, *rest in rows:
        table.add_row(number, Text(outcome, _STYLES.get(outcome, "")), *map(Text, rest))
    Console(width=max(console.width, _width(rows, errors=False) + _ERROR_WIDTH)).print(table)
    if not all(attempt.counted for attempt in attempts):
        click.echo(f"{_UNCOUNTED} does not count: the next attempt has its number.")


def print_operation(snapshot: Snapshot) -> None:
    """Print all that is known of one operation, a line for each fact.

    What the service adds is JSON, which takes more lines on a terminal.
    """
    for label, text in _facts(snapshot):
        click.echo(f"{label}: {text}")
    parts = {"metadata": snapshot.own_metadata, "response": snapshot.response}
    for label, document in parts.items():
        if document:
            click.echo(f"{label}: ", nl=False)
            print_result(document)


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in which names are whole; a narrow terminal does without the last columns."""
    console = Console()
    widths = [max(map(cell_len, column)) + _GAP for column in zip(headings, *rows, strict=True)]
    kept = len(widths)
    while kept > _KEPT and sum(widths[:kept]) - _GAP > console.width:
        kept -= 1
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for heading in headings[:kept]:
        table.add_column(heading, no_wrap=True)
    for row in rows:
        # Text, not str: what a server sends is not markup.
        cells = (
            Text(cell, _STYLES.get(cell, "") if heading == "STATE" else "")
            for heading, cell in zip(headings[:kept], row, strict=False)
        )
        table.add_row(*cells)
    # The terminal itself breaks what is still too wide; it is copied without the break.
    Console(width=max(console.width, sum(widths[:kept]) - _GAP)).print(table)


def _cells(snapshot: Snapshot) -> tuple[str, str, str, str, str]:
    return (
        printable(snapshot.name),
        snapshot.state,
        printable(str(snapshot.progress or "")),
        printable(snapshot.verb),
        _time(snapshot.create_time),
    )


def _attempt_cells(attempt: Attempt) -> tuple[str, ...]:
    return (
        str(attempt.number),
        attempt.outcome,
        _time(attempt.start_time),
        _time(attempt.end_time),
        printable(attempt.worker),
        printable(attempt.error.line) if attempt.error else "",
    )


def _attempt_rows(attempts: Sequence[Attempt], width: int) -> list[tuple[str, ...]]:
    """Return rows whose errors fit into a terminal: for that, worker and date may be cut."""
    rows = [_marked(_attempt_cells(attempt), attempt) for attempt in attempts]
    if _width(rows) <= width:
        return rows
    rows = [(*row[:_WORKER], row[_WORKER][:_WORKER_WIDTH], *row[_WORKER + 1 :]) for row in rows]
    if _width(rows) <= width:
        return rows
    days = {time[:_DAY_WIDTH] for row in rows for time in row[_TIMES] if time}
    start = _DAY_WIDTH + 1 if len(days) == 1 else _YEAR_WIDTH + 1
    return [
        (*row[: _TIMES.start], *(time[start:] for time in row[_TIMES]), *row[_TIMES.stop :])
        for row in rows
    ]


def _marked(cells: tuple[str, ...], attempt: Attempt) -> tuple[str, ...]:
    number, *rest = cells
    return (number if attempt.counted else number + _UNCOUNTED, *rest)


def _width(rows: Iterable[Sequence[str]], *, errors: bool = True) -> int:
    """Return how wide a table of attempts is, with or without the errors at its end."""
    columns = list(zip(_ATTEMPT_HEADINGS, *rows, strict=True))
    widths = [max(map(cell_len, column)) for column in columns[: None if errors else -1]]
    return sum(widths) + _GAP * (len(columns) - 1)


def _short_cells(snapshot: Snapshot) -> tuple[str, ...]:
    name, state, progress, *rest = _cells(snapshot)
    return name, state, _cut(progress, _PROGRESS_WIDTH), *rest


def _dead_cells(snapshot: Snapshot) -> tuple[str, ...]:
    name, _, _, *rest = _cells(snapshot)
    return name, printable(snapshot.error.brief) if snapshot.error else "", *rest


def _with_errors_cut(rows: Iterable[Sequence[str]]) -> list[tuple[str, ...]]:
    """Return rows whose errors take the room that names leave, within limits."""
    rows = list(rows)
    room = Console().width - max(cell_len(name) for name, *_ in rows) - _GAP
    width = max(_ERROR_WIDTH, min(room, _WIDEST_ERROR))
    return [(name, _cut(error, width), *rest) for name, error, *rest in rows]


def _cut(text: str, width: int) -> str:
    short = Text(text)
    short.truncate(width, overflow="ellipsis")
    return short.plain


def _facts(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    name, state, progress, verb, created = _cells(snapshot)
    yield "name", name
    yield "state", state
    attempt = f"{snapshot.attempt} of {snapshot.max_attempts}" if snapshot.attempt else ""
    estimated = snapshot.progress.estimated_end_time if snapshot.progress else None
    last_error = snapshot.last_error if snapshot.error is None else None
    facts = {
        "method": verb,
        "target": printable(snapshot.target),
        "created": created,
        "started": _time(snapshot.start_time),
        "updated": _time(snapshot.update_time),
        "cancel requested": _time(snapshot.cancel_requested_time),
        "ended": _time(snapshot.end_time),
        "expires": _time(snapshot.expire_time),
        "progress": progress,
        "estimated end": _time(estimated) if estimated and not snapshot.done else "",
        "attempt": attempt,
        "last error": printable(last_error.line) if last_error else "",
        "next attempt": _time(snapshot.next_attempt_time),
        "dead letter": "yes" if snapshot.dead_letter else "",
        "retried from": printable(snapshot.retried_from),
    }
    yield from ((label, text) for label, text in facts.items() if text)
    if snapshot.error is not None:
        yield "error", printable(snapshot.error.line)
        for detail in snapshot.error.details:
            yield "error detail", printable(detail)


def _time(moment: datetime | None) -> str:
    return shown_time(moment) if moment else ""
