"""Server processes that are killed, paused and started again."""

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import grpc
from google.longrunning import operations_pb2_grpc
from outlastapi.script.v1 import script_pb2_grpc

from tests.chaos.history import Outage
from tests.chaos.service import AUDIT

LEASE_SECONDS = 1.0
GRACE_SECONDS = 1.0
CONCURRENCY = 8

_ROOT = Path(__file__).parents[2]
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_RESTART_SECONDS = 0.2
_REFUSED = re.compile(r" was refused: epoch \d+ is over")
_BUGS = re.compile(
    r"CRITICAL|ERROR asyncio|(claiming|renewing leases) failed|cannot be stored|ended badly"
)


class Server:
    """One of the servers: a place for one process after the other."""

    def __init__(self, name: str, folder: Path, store: str, command: str = "serve") -> None:
        self.name = name
        self._store = store
        self._command = command
        self.outages: list[Outage] = []
        self.faults: list[str] = []
        self.operations: operations_pb2_grpc.OperationsStub
        self.script: script_pb2_grpc.ScriptServiceAsyncStub
        self._folder = folder
        self._log = folder / f"{name}.log"
        self._process: asyncio.subprocess.Process | None = None
        self._channel: grpc.aio.Channel | None = None

    @property
    def log(self) -> str:
        """What all its processes have logged."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def process(self) -> int:
        """The process of the moment, or the last one."""
        return 0 if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start a process, as a supervisor does while its store is away; return when it serves."""
        began = time.monotonic()
        while not (address := await self._try_to_start()):
            if time.monotonic() - began > _START_SECONDS:
                raise RuntimeError(f"{self.name} did not start:\n{self.log[-2000:]}")
            await asyncio.sleep(_RESTART_SECONDS)
        if self._command == "worker":
            return
        await self._close_channel()
        self._channel = grpc.aio.insecure_channel(address)
        self.operations = operations_pb2_grpc.OperationsStub(self._channel)
        self.script = script_pb2_grpc.ScriptServiceStub(self._channel)

    async def _try_to_start(self) -> str:
        """Start a process; return where it serves, nothing if it has ended instead."""
        arguments = ["--service", "tests.chaos.service:ChaosService", "--store", self._store]
        arguments += ["--listen", "127.0.0.1:0", "--concurrency", f"{CONCURRENCY}"]
        arguments += ["--lease", f"{LEASE_SECONDS}s", "--grace", f"{GRACE_SECONDS}s"]
        paths = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        environment = {AUDIT: str(self._folder / "audit"), "PYTHONPATH": paths}
        with self._log.open("ab") as log:
            self._process = process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "outlast", self._command, *arguments),
                cwd=self._folder,
                env=os.environ | environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us alone
            )
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), _START_SECONDS)
        ready = re.match(r"Ready at (\S+?),? ", line.decode())
        return ready[1] if ready else ""

    async def pause(self, seconds: float) -> None:
        """Stop the process for a while."""
        with self._outage("pause"):
            self._signal(signal.SIGSTOP)
            await asyncio.sleep(seconds)
            self._signal(signal.SIGCONT)

    async def kill(self, *, pause: float = 0.0) -> None:
        """Kill the process, which may have been stopped before, and start the next one."""
        if pause:
            with self._outage("pause"):
                self._signal(signal.SIGSTOP)
                await asyncio.sleep(pause)
        with self._outage("kill"):
            self._signal(signal.SIGKILL)
            await self._ended(-signal.SIGKILL)
            await self.start()

    async def restart(self) -> None:
        """Have the process end in peace, and start the next one."""
        with self._outage("restart"):
            await self.stop()
            await self.start()

    async def stop(self) -> None:
        """Have the process end in peace."""
        self._signal(signal.SIGTERM)
        await self._ended(0)

    async def close(self) -> None:
        """Leave nothing behind, however it stands."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        await self._close_channel()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        else:
            self.faults.append(f"{self.name} ended by itself with {self._process.returncode}")

    async def _ended(self, expected: int) -> None:
        assert self._process is not None
        code = await asyncio.wait_for(self._process.wait(), _STOP_SECONDS)
        if code != expected:
            self.faults.append(f"{self.name} ended with {code} and not with {expected}")

    async def _close_channel(self) -> None:
        if self._channel is not None:
            await self._channel.close()

    def _outage(self, kind: str) -> "_Timed":
        return _Timed(self, kind)


class _Timed:
    """Notes an outage of a server when it is over, however it ends."""

    def __init__(self, server: Server, kind: str) -> None:
        self._server = server
        self._kind = kind

    def __enter__(self) -> None:
        self._began = time.monotonic()
        self._process = self._server.process if self._kind == "kill" else 0

    def __exit__(self, *_: object) -> None:
        moments = self._began, time.monotonic()
        outage = Outage(self._server.name, self._kind, *moments, self._process)
        self._server.outages.append(outage)


@asynccontextmanager
async def started(
    folder: Path, store: str, count: int, workers: int = 0
) -> AsyncIterator[tuple[Sequence[Server], Sequence[Server]]]:
    """Yield servers and workers on one store; in the end none of their processes is left."""
    servers = [Server(f"server-{number}", folder, store) for number in range(count)]
    helpers = [Server(f"worker-{number}", folder, store, "worker") for number in range(workers)]
    both = [*servers, *helpers]
    try:
        await asyncio.gather(*(server.start() for server in both))
        yield servers, helpers
    finally:
        for server in both:
            await server.close()


async def trouble(server: Server, random: Random, seconds: float) -> None:
    """Do to a server what happens to servers, for so many seconds."""
    end = time.monotonic() + seconds
    while True:
        quiet = random.uniform(0.3, 3.0)
        if time.monotonic() + quiet >= end:
            return
        await asyncio.sleep(quiet)
        deed = random.choices(
            ["kill", "blink", "pause", "pause and kill", "restart"], weights=[4, 3, 4, 1, 1]
        )[0]
        match deed:
            case "kill":
                await server.kill()
            case "blink":
                await server.pause(random.uniform(0.05, 0.7) * LEASE_SECONDS)
            case "pause":
                await server.pause(random.uniform(1.2, 3.0) * LEASE_SECONDS)
            case "pause and kill":
                await server.kill(pause=random.uniform(0.1, 2.0) * LEASE_SECONDS)
            case _:
                await server.restart()


def count_refused(servers: Sequence[Server]) -> int:
    """Return how many writes of zombies the servers say that they refused."""
    return sum(len(_REFUSED.findall(server.log)) for server in servers)


def faults(servers: Sequence[Server]) -> Iterator[str]:
    """Yield what the servers did that no server may do."""
    for server in servers:
        yield from server.faults
        for line in server.log.splitlines():
            if _BUGS.search(line):
                yield f"{server.name} logged: {line}"
