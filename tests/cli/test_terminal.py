"""What a person sees: the command runs in a process of its own, on a terminal."""

import asyncio
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from google.longrunning import operations_pb2
from outlastapi.v1.operation_metadata_pb2 import OperationMetadata

from outlast.cli.exit_codes import ExitCode
from outlast.stores.sqlite import SqliteStore
from outlast.testing.clock import ManualClock
from outlast.testing.contract.driver import Driver
from tests.interrupts import interrupts_heeded

NAME = "operations/a"
SECONDS = 30
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A pseudo-terminal with a command on it."""

    def __init__(self, process: subprocess.Popen, master: int) -> None:
        self.process = process
        self.shown = ""
        self._master = master

    def read_until(self, text: str) -> str:
        """Return what was shown when a text has appeared, without colours and movements."""
        while text not in self.shown:
            assert select.select([self._master], [], [], SECONDS)[0], self.shown
            self._read()
        return self.shown

    def read_to_end(self) -> str:
        while self._read():
            pass
        return self.shown

    def _read(self) -> bool:
        try:
            data = os.read(self._master, 65536)
        except OSError:  # how Linux reports that the other end is closed
            return False
        self.shown += ESCAPES.sub("", data.decode())
        return bool(data)


@contextmanager
def on_terminal(*arguments: str, width: int = 110) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, width))
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("COLUMNS", None)  # the terminal has a width of its own
    command = [sys.executable, "-m", "outlast", *arguments]
    with interrupts_heeded():
        process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )
    os.close(slave)
    try:
        yield Terminal(process, master)
        process.wait(SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(master)


def with_progress(types, completed: int) -> operations_pb2.Operation:
    metadata = types.metadata(
        state=OperationMetadata.RUNNING,
        progress={
            "completed": completed,
            "total": 4,
            "percent": completed * 25,
            "message": f"photo {completed}",
        },
    )
    return operations_pb2.Operation(name=NAME, metadata=metadata)


def test_wait_shows_a_bar_that_moves_and_then_the_result(foreign, types):
    foreign.put(with_progress(types, 1))
    arguments = ("operations", "wait", NAME, "--address", foreign.address)
    with on_terminal(*arguments) as terminal:
        terminal.read_until("25%")
        foreign.put(with_progress(types, 3))
        assert "RUNNING" in terminal.read_until("75%")
        assert "photo 3" in terminal.read_until("photo 3")
        assert "━" in terminal.shown
        foreign.succeed(NAME, "hello")
        shown = terminal.read_to_end()
    assert "100%" in shown
    assert '"text": "hello"\r\n' in shown
    assert terminal.process.returncode == ExitCode.OK


def test_wait_shows_a_bar_without_an_end_for_foreign_metadata(foreign, types):
    foreign.add(NAME, metadata=types.packed("PlainMetadata", note="nothing to go by"))
    arguments = ("operations", "wait", NAME, "--address", foreign.address)
    with on_terminal(*arguments) as terminal:
        shown = terminal.read_until("UNFINISHED")
        assert "%" not in shown
        foreign.succeed(NAME, "hello")
        assert '"text": "hello"' in terminal.read_to_end()
    assert terminal.process.returncode == ExitCode.OK


def test_an_interrupt_leaves_the_operation_alone_and_says_so(foreign):
    foreign.add(NAME)
    arguments = ("operations", "wait", NAME, "--address", foreign.address)
    with on_terminal(*arguments) as terminal:
        terminal.read_until("UNFINISHED")
        terminal.process.send_signal(signal.SIGINT)
        shown = terminal.read_to_end()
    assert terminal.process.returncode == ExitCode.INTERRUPTED
    assert "operations/a goes on" in shown
    assert "Traceback" not in shown
    assert "CancelOperation" not in foreign.called
    assert not foreign.operations[NAME].done


def test_list_is_a_table_on_a_terminal(foreign, types):
    foreign.put(with_progress(types, 1))
    with on_terminal("operations", "list", "--address", foreign.address) as terminal:
        heading, row = terminal.read_to_end().split("\r\n")[:2]
    assert heading.split() == ["NAME", "STATE", "PROGRESS", "METHOD", "CREATED"]
    assert row.split()[:3] == [NAME, "RUNNING", "25%"]


@pytest.mark.parametrize("name", ["operations/[red]x[/red]", "operations/" + "x" * 200])
def test_the_table_shows_names_whole_and_takes_nothing_in_them_for_markup(foreign, name):
    foreign.add(name)
    with on_terminal("operations", "list", "--address", foreign.address) as terminal:
        shown = terminal.read_to_end()
    assert shown.split("\r\n")[1].split() == [name, "UNFINISHED"]


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (200, ["NAME", "STATE", "PROGRESS", "METHOD", "CREATED"]),
        (100, ["NAME", "STATE", "PROGRESS", "METHOD"]),
        (78, ["NAME", "STATE", "PROGRESS"]),
        (60, ["NAME", "STATE"]),
        (20, ["NAME", "STATE"]),
    ],
)
def test_a_narrow_terminal_does_without_columns_and_breaks_no_name(foreign, types, width, columns):
    name = "operations/5a3c1f0e-7d7c-4b8e-9d55-3f0d6c1b2a41"
    metadata = types.metadata(
        state=OperationMetadata.RUNNING,
        verb="a.Service/Method",
        progress={"message": "a message that goes on for long"},
        create_time={"seconds": 1_700_000_000},
    )
    foreign.add(name, metadata=metadata)
    arguments = ("operations", "list", "--address", foreign.address)
    with on_terminal(*arguments, width=width) as terminal:
        lines = terminal.read_to_end().split("\r\n")
    assert lines[0].split() == columns
    assert lines[1].startswith(f"{name}  RUNNING")
    assert len(lines[1]) <= max(width, len(f"{name}  RUNNING"))
    assert "PROGRESS" not in columns or "  a message that goes" in lines[1]
    assert lines[2:] == [""]


def test_an_empty_list_says_so_on_a_terminal(foreign):
    with on_terminal("operations", "list", "--address", foreign.address) as terminal:
        assert terminal.read_to_end() == "No operations.\r\n"


def waiting_for_a_retry(types) -> operations_pb2.Operation:
    metadata = types.metadata(
        state=OperationMetadata.PENDING,
        attempt=1,
        max_attempts=5,
        last_error={"code": 14, "message": "out of paper"},
        next_attempt_time={"seconds": 1_700_000_000},
    )
    return operations_pb2.Operation(name=NAME, metadata=metadata)


def test_get_shows_json_on_lines_of_its_own(foreign, types):
    foreign.put(waiting_for_a_retry(types))
    with on_terminal("operations", "get", NAME, "--address", foreign.address) as terminal:
        shown = terminal.read_to_end()
    assert "attempt: 1 of 5\r\nlast error: out of paper (UNAVAILABLE)\r\n" in shown
    assert 'metadata: {\r\n  "@type": "type.googleapis.com/foreign.v1.EchoMetadata",\r\n' in shown


def test_wait_says_above_the_bar_why_there_is_another_attempt(foreign, types):
    foreign.put(waiting_for_a_retry(types))
    arguments = ("operations", "wait", NAME, "--address", foreign.address)
    with on_terminal(*arguments, width=200) as terminal:
        terminal.read_until(
            "attempt 1 of 5 failed: out of paper (UNAVAILABLE); "
            "the next one is due at 2023-11-14 22:13:20Z"
        )
        foreign.succeed(NAME, "hello")
        assert terminal.read_to_end().count("out of paper") == 1
    assert terminal.process.returncode == ExitCode.OK


def test_a_migration_shows_a_bar(tmp_path):
    source, target = tmp_path / "a.db", tmp_path / "b.db"

    async def insert() -> None:
        clock = ManualClock()
        async with SqliteStore.open(source, clock=clock) as store:
            await Driver(store, clock).insert()

    asyncio.run(insert())
    with on_terminal("migrate-store", str(source), str(target), width=300) as terminal:
        shown = terminal.read_to_end()
    assert "Migrating" in shown
    assert "100%" in shown
    assert f"1 operations in {source}: 1 added to {target}" in shown
    assert terminal.process.returncode == ExitCode.OK
