"""SQLite files, and other processes that use them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from outlast.testing.clock import ManualClock

CHILD = Path(__file__).with_name("child.py")

_UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")
_WITHOUT_PRIVILEGE = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--")


class Child:
    """Another process, which does one thing of `child.py` and says how it goes."""

    def __init__(self, *arguments: object, prefix: Sequence[str] = ()) -> None:
        self._process = subprocess.Popen(
            [*prefix, sys.executable, str(CHILD), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def hear(self) -> Any:
        """Return the next thing that it says."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the child ended with {self._process.wait()}"
        return json.loads(line)

    def tell(self, line: str = "") -> None:
        """Let it go on."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """Wait until it has ended, which it does when there is nothing more to hear."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait() == 0

    def close(self) -> None:
        """Leave nothing behind."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture
def clock() -> ManualClock:
    """Return the clock that the stores go by."""
    return ManualClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a store may be."""
    return tmp_path / "operations.db"


@pytest.fixture
def start_child() -> Iterator[Callable[..., Child]]:
    """Return how to start another process."""
    children: list[Child] = []

    def start(*arguments: object, prefix: Sequence[str] = ()) -> Child:
        child = Child(*arguments, prefix=prefix)
        children.append(child)
        return child

    yield start
    for child in children:
        child.close()


@pytest.fixture
def start_unprivileged_child(
    start_child: Callable[..., Child], lacking: Callable[[str], NoReturn]
) -> Callable[..., Child]:
    """Return how to start a process that permissions apply to, also for root."""

    def start(*arguments: object) -> Child:
        if os.geteuid() != 0:
            return start_child(*arguments)
        if not _works(*_WITHOUT_PRIVILEGE, "true"):
            lacking("root cannot give up its right to write everywhere: no setpriv")
        return start_child(*arguments, prefix=_WITHOUT_PRIVILEGE)

    return start


@pytest.fixture
def start_mounting_child(
    start_child: Callable[..., Child], lacking: Callable[[str], NoReturn]
) -> Callable[..., Child]:
    """Return how to start a process that may mount file systems of its own."""

    def start(*arguments: object) -> Child:
        if not _works(*_UNSHARE, "true"):
            lacking("this machine does not let a process mount file systems of its own")
        return start_child(*arguments, prefix=_UNSHARE)

    return start


def _works(*command: str) -> bool:
    return (
        shutil.which(command[0]) is not None
        and subprocess.run(command, check=False, capture_output=True).returncode == 0
    )
