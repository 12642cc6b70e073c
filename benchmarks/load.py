"""Starting servers, loading them, and reading what they cost."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CALLERS = 64
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Measured:
    """What one run of a load gave."""

    per_second: float
    server_microseconds: float
    """Processor time of the server per call."""


@dataclass(frozen=True)
class ServerProcess:
    """A server in a process of its own."""

    pid: int
    address: str

    def processor_seconds(self) -> float:
        """Return how much processor time it has used."""
        return processor_seconds(self.pid)


def processor_seconds(pid: int, *, with_ended_children: bool = False) -> float:
    """Return how much processor time a process has used, or it and those it waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11 : 15 if with_ended_children else 13])) / _TICKS


def sync_micros(folder: Path) -> float:
    """Return the median time that the disk takes to make 4 KiB durable."""
    times = []
    with (folder / "sync").open("wb") as file:
        for _ in range(100):
            file.write(bytes(4096))
            file.flush()
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - began) * 1e6)
    return percentile(times, 0.5)


@contextmanager
def serving(*arguments: str) -> Iterator[ServerProcess]:
    """Run a server of `benchmarks.servers` and stop it in the end."""
    command = [sys.executable, "-m", "benchmarks.servers", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().strip() if process.stdout else ""
            yield ServerProcess(process.pid, address)
        finally:
            process.terminate()


async def closed_loop(
    call: Callable[[], Awaitable[object]], server: ServerProcess, seconds: float
) -> Measured:
    """Have CALLERS callers make one call after the other for a time."""
    count = 0
    began, used = time.perf_counter(), server.processor_seconds()

    async def caller() -> None:
        nonlocal count
        while time.perf_counter() - began < seconds:
            await call()
            count += 1

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    elapsed = time.perf_counter() - began
    return Measured(count / elapsed, (server.processor_seconds() - used) / count * 1e6)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
