"""Serving by several processes on one address.

The supervisor serves nothing itself. It keeps the port, starts the processes, and starts
again what dies.
"""

import asyncio
import logging
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Sequence
from contextlib import suppress

import click

from outlast.cli.exit_codes import ExitCode
from outlast.cli.failure import Failure
from outlast.cli.member import PROGRAM
from outlast.domain.errors import ConfigurationError
from outlast.server.tcp import shared_port

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 30.0
"""How long, at the least and at the most, until what has died is started again."""
_LASTING_SECONDS = 60.0
"""A process that was ready for so long is not taken for one that dies again and again."""

_log = logging.getLogger(__name__)


def serve_by_several(count: int, listen: str, arguments: Sequence[str]) -> int:
    """Serve by so many processes until a signal comes; return the exit code.

    Each of them is `outlast serve` with the same arguments. Raises Failure if the address
    cannot be had.
    """
    try:
        with shared_port(listen) as address:
            return asyncio.run(_serve(count, address, arguments))
    except ConfigurationError as error:
        raise Failure(ExitCode.CANNOT_SERVE, error.message) from error


async def _serve(count: int, address: str, arguments: Sequence[str]) -> int:
    return await Supervisor(count, address, arguments).run()


class Supervisor:
    """Keeps processes running until it is told to stop, and then stops them. For one loop."""

    def __init__(self, count: int, address: str, arguments: Sequence[str]) -> None:
        self._stopping = asyncio.Event()
        self._members = [_Member(address, arguments, self._stopping) for _ in range(count)]
        self._tasks: list[asyncio.Task[int]] = []

    async def run(self) -> int:
        """Serve; return the exit code: 0 if all have ended in peace, else what one has said."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        try:
            ready_line = await self._start()
            if ready_line is not None:
                click.echo(f"{ready_line}, in {len(self._members)} processes")
                await self._stopping.wait()
        finally:
            if not self._stopping.is_set():
                self._stop()
            codes = await asyncio.gather(*self._tasks)
        return next((code for code in codes if code), ExitCode.OK)

    def _stop(self) -> None:
        """Have all of them do what they do at a signal: drain, or hurry at the second one."""
        self._stopping.set()
        for member in self._members:
            member.stop()

    async def _start(self) -> str | None:
        """Return the ready line when all are ready; None if one has ended instead.

        The first one starts alone: what keeps it from starting is told once.
        """
        first, *others = self._members
        for some in ([first], others):
            self._tasks += [asyncio.create_task(member.keep()) for member in some]
            if None in [await member.ready for member in some]:
                return None
        return first.ready.result()


class _Member:
    """One of the processes, and those that take its place."""

    def __init__(self, address: str, arguments: Sequence[str], stopping: asyncio.Event) -> None:
        self.ready: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        """The ready line of the first process, or None if it has ended before it was ready."""
        self._address = address
        self._arguments = arguments
        self._stopping = stopping
        self._process: Process | None = None

    async def keep(self) -> int:
        """Run a process, and another one when it dies, until told to stop; return its exit code.

        A first one that ends before it is ready is not started again. The pauses grow, so
        that one that does not last does not keep the machine busy.
        """
        pause = _FIRST_PAUSE_SECONDS
        while True:
            code, ready_seconds = await self._run()
            if not self.ready.done():
                self.ready.set_result(None)
                return code
            if self._stopping.is_set():
                return code
            if ready_seconds >= _LASTING_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            _log.error("another process is started in %g s", pause)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
                return ExitCode.OK
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def stop(self) -> None:
        """Send the process that runs a signal."""
        if self._process is not None:
            with suppress(ProcessLookupError):  # it has just ended
                self._process.terminate()

    async def _run(self) -> tuple[int, float]:
        """Run a process to its end; return its exit code, and for how many seconds it was ready."""
        try:
            process, link = await self._spawn()
        except OSError as error:
            _log.error("no process can be started: %s", error)
            return ExitCode.CANNOT_SERVE, 0.0
        with link:
            self._process = process
            if self._stopping.is_set():  # it was not there yet to be told
                self.stop()
            ready_line = await _line(link)
            ready_at = time.monotonic()
            if ready_line and self.ready.done():
                _log.info("process %d is ready in place of the one that ended", process.pid)
            elif ready_line:
                self.ready.set_result(ready_line)
            code = await process.wait()
            self._process = None
        if self._stopping.is_set() and code == -signal.SIGTERM:
            return ExitCode.OK, 0.0  # it had not got as far as to stop in peace
        if code < 0 or (ready_line and not self._stopping.is_set()):
            _log.error("process %d ended %s", process.pid, _described(code))
        ready_seconds = time.monotonic() - ready_at if ready_line else 0.0
        return code if code >= 0 else ExitCode.CANNOT_SERVE, ready_seconds

    async def _spawn(self) -> tuple[Process, socket.socket]:
        """Start a process in a session of its own: Ctrl-C is for the supervisor only."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *("-c", PROGRAM.format(path=sys.path)),
                    *(str(theirs.fileno()), self._address),
                    *self._arguments,
                    stdin=DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            except OSError:
                ours.close()
                raise
        return process, ours


async def _line(link: socket.socket) -> str:
    """Return what a process says, or nothing if it ends."""
    said = b""
    while not said.endswith(b"\n"):
        more = await asyncio.get_running_loop().sock_recv(link, 4096)
        if not more:
            return ""
        said += more
    return said.decode().strip()


def _described(code: int) -> str:
    if code >= 0:
        return f"with exit code {code}"
    return f"by {next((it.name for it in signal.Signals if it == -code), f'signal {-code}')}"
