"""A server in a process of its own."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Self

from outlast_imaging.demo import DemoError

_READY = re.compile(r"Ready at (?P<address>\S+),")
_START_SECONDS = 60
_MAX_STARTS = 5
_LOG_LINES = 5


class ServerProcess:
    """`outlast serve` on an SQLite file, started again whenever it dies."""

    def __init__(self, data: Path, photos: Path, notice: Callable[[str], None]) -> None:
        self.artifacts = data / "artifacts"
        self.address = "127.0.0.1:0"
        self._store = data / "operations.db"
        self._log = data / "server.log"
        self._notice = notice
        self._environment = {
            "OUTLAST_IMAGING_ARTIFACTS": str(self.artifacts),
            "OUTLAST_IMAGING_ROOT": str(photos),
            "OUTLAST_GRACE": "3s",  # who interrupts the demo need not wait for all photographs
            "OUTLAST_LEASE": "5s",  # what a killed server had in hand is not left for longer
        }
        self._starts = 0
        self._stopping = False

    @classmethod
    @asynccontextmanager
    async def open(
        cls, data: Path, photos: Path, notice: Callable[[str], None]
    ) -> AsyncIterator[Self]:
        """Start a server that may read `photos` and keeps all in `data`; stop it in the end."""
        server = cls(data, photos, notice)
        await server._start()
        try:
            yield server
        finally:
            await server._stop()

    async def keep_running(self) -> None:
        """Start the server again whenever it has died; DemoError if that does not help."""
        while True:
            await self._process.wait()
            if self._stopping:
                return
            self._notice(f"The server has died ({self._ending}). It is started again.")
            await self._start()

    def kill(self) -> None:
        """Send the server SIGKILL."""
        self._notice(f"Killing the server, process {self._process.pid}, with SIGKILL.")
        self._process.kill()

    @property
    def _ending(self) -> str:
        code = self._process.returncode
        return f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"

    async def _start(self) -> None:
        """Start the server and wait until it is ready, at the address that it had before."""
        if self._starts == _MAX_STARTS:
            raise DemoError(f"the server died {self._starts} times; see {self._log}")
        self._starts += 1
        command = [sys.executable, "-m", "outlast", "serve", "--listen", self.address]
        command += ["--store", str(self._store), "--service", "outlast_imaging:ImagingService"]
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                env=os.environ | self._environment,  # noqa: TID251  # the server's, to hand on
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo, which then stops the server
            )
        self.address = await self._ready_address()

    async def _ready_address(self) -> str:
        output = self._process.stdout
        assert output is not None  # noqa: S101  # a pipe was asked for
        with suppress(TimeoutError):
            async with asyncio.timeout(_START_SECONDS):
                async for line in output:
                    if ready := _READY.match(line.decode()):
                        return ready["address"]
                # It is ending by itself. To signal it now would take its exit status away
                # from asyncio, which waits for it.
                await self._process.wait()
        await self._stop()
        log = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        raise DemoError("\n".join([f"the server did not start ({self._ending})", *log]))

    async def _stop(self) -> None:
        self._stopping = True
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()
        await self._process.wait()
