"""Shows operations while they run, and when they are done."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from google.longrunning import operations_pb2
from outlastapi.imaging.v1 import imaging_pb2
from outlastapi.v1.operation_metadata_pb2 import OperationMetadata
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

import outlast

_ANY_WIDTH = 10_000


class Display(Protocol):
    """Where operations are shown while they run."""

    def show(self, photo: str, operation: operations_pb2.Operation) -> None:
        """Show how the operation of a photograph stands."""

    def notice(self, text: str) -> None:
        """Say something."""


@contextmanager
def live_display(console: Console) -> Iterator[Display]:
    """Open what fits: a bar for each operation on a terminal, else lines."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(complete_style="cyan", finished_style="green"),  # 16 colours have these
        TaskProgressColumn(),
        TextColumn("{task.fields[state]}", markup=False),
    )
    with Progress(*columns, console=console) as bars:
        yield _Bars(bars)


def print_table(console: Console, operations: Mapping[str, operations_pb2.Operation]) -> None:
    """Print the finished operations by the names of their photographs."""
    table = Table(box=None, pad_edge=False)
    for heading in ("Photo", "Operation", "State", "Attempts", "Derivatives"):
        table.add_column(heading, no_wrap=True)
    for photo, operation in operations.items():
        metadata = _metadata(operation)
        table.add_row(
            Text(photo),
            Text(operation.name),
            OperationMetadata.State.Name(metadata.operation.state),
            str(metadata.operation.attempt),
            str(len(metadata.derivatives)),
        )
    # Where it is too wide, the terminal breaks its lines: a name can still be copied whole.
    width = Measurement.get(console, console.options.update(max_width=_ANY_WIDTH), table).maximum
    Console(file=console.file, width=max(width, console.width), highlight=False).print(table)


def print_derivatives(console: Console, operations: Iterable[operations_pb2.Operation]) -> None:
    """Print the folder that all derivatives lie in, and then a line for each photograph's."""
    folders: dict[Path, list[str]] = {}
    for operation in operations:
        image = imaging_pb2.Image()
        operation.response.Unpack(image)
        for derivative in image.derivatives:
            path = Path(unquote(urlsplit(derivative.uri).path))
            folders.setdefault(path.parent, []).append(path.name)
    if not folders:
        return
    root = os.path.commonpath([folder.parents[1] for folder in folders])
    console.print(f"The derivatives are in {root}:", markup=False, soft_wrap=True)
    for folder, names in folders.items():
        line = f"{folder.relative_to(root)}/: {', '.join(names)}"
        console.print(line, markup=False, soft_wrap=True)


def print_failures(
    console: Console, operations: Mapping[str, operations_pb2.Operation]
) -> Sequence[str]:
    """Print which photographs failed and why, and in the end the sum of it; return which."""
    failures = {photo: text for photo, each in operations.items() if (text := _failure(each))}
    for photo, failure in failures.items():
        console.print(f"{photo} failed: {failure}", markup=False, soft_wrap=True)
    processed = f"{len(operations) - len(failures)} of {len(operations)} photos processed"
    summary = f"{processed}."
    if failures:
        # The last words, but for what make says of the exit status.
        summary = f"{processed}; these failed, hence the exit status 1: {', '.join(failures)}"
    console.print(summary, markup=False, soft_wrap=True)
    return list(failures)


def _failure(operation: operations_pb2.Operation) -> str:
    """Return why an operation failed; empty if it did not."""
    if not operation.HasField("error"):
        return ""
    return f"{outlast.Code(operation.error.code).name}: {operation.error.message}"


def _metadata(operation: operations_pb2.Operation) -> imaging_pb2.ProcessImageMetadata:
    metadata = imaging_pb2.ProcessImageMetadata()
    operation.metadata.Unpack(metadata)
    return metadata


def _state(operation: operations_pb2.Operation) -> str:
    """Return in a few words what an operation is doing."""
    metadata = _metadata(operation).operation
    if operation.done:
        return _failure(operation) or "done"
    if metadata.state == OperationMetadata.RUNNING:
        return metadata.progress.message or "begun"
    return "waiting"


class _Lines:
    """Prints a line whenever something has changed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: dict[str, str] = {}

    def show(self, photo: str, operation: operations_pb2.Operation) -> None:
        percent = _metadata(operation).operation.progress.percent
        line = f"{photo}: {percent} % {_state(operation)}"
        if self._last.get(photo) != line:
            self._last[photo] = line
            self.notice(line)

    def notice(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)


class _Bars:
    """Moves a bar for each operation."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def show(self, photo: str, operation: operations_pb2.Operation) -> None:
        if photo not in self._tasks:
            self._tasks[photo] = self._bars.add_task(photo, total=None, state="")
        progress = _metadata(operation).operation.progress
        self._bars.update(
            self._tasks[photo],
            completed=progress.completed,
            total=progress.total or None,
            state=_state(operation),
        )

    def notice(self, text: str) -> None:
        self._bars.console.print(text, markup=False)
