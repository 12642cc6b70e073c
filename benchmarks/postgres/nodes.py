"""Nodes: `outlast serve` in processes of their own, which tell when their handlers run."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from google.longrunning import operations_pb2_grpc
from outlastapi.script.v1 import script_pb2_grpc

from benchmarks.load import processor_seconds

_READY = "Ready at "


class Node:
    """A server, and calls to it."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self._process = process
        self.address = address
        self.pid = process.pid
        self._channel = grpc.aio.insecure_channel(address)
        self.scripts = script_pb2_grpc.ScriptServiceStub(self._channel)
        self.operations = operations_pb2_grpc.OperationsStub(self._channel)

    async def told(self, event: str, operation: str) -> float:
        """Return when a handler was `running` or `cancelled`, once it has told so.

        That is by the monotonic clock of the machine, which all processes share. What it
        told before is forgotten.
        """
        if self._process.stdout is None:
            raise RuntimeError("a node is started with a pipe")
        while line := (await self._process.stdout.readline()).decode():
            *what, moment = line.split()
            if what == [event, operation]:
                return float(moment)
        raise RuntimeError(f"the node at {self.address} ended")

    def processor_seconds(self) -> float:
        """Return how much processor time it has used."""
        return processor_seconds(self.pid)

    async def kill(self) -> None:
        """Kill it as a crash of its machine would."""
        os.kill(self.pid, signal.SIGKILL)
        await self._process.wait()
        await self._channel.close()

    async def stop(self) -> None:
        """Stop it in peace, unless it was killed."""
        if self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()
            await self._channel.close()


async def start_node(url: str, *options: str, service: str = "TellingScripts") -> Node:
    """Start a server on a database; return it when it is ready."""
    command = [sys.executable, "-m", "outlast", "serve", "--store", url, "--log-level", "error"]
    command += ["--service", f"benchmarks.servers:{service}", "--listen", "127.0.0.1:0", *options]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    line = (await process.stdout.readline()).decode() if process.stdout else ""
    if not line.startswith(_READY):
        raise RuntimeError(f"a node did not start: {line}")
    return Node(process, line.removeprefix(_READY).partition(",")[0])


@asynccontextmanager
async def node(url: str, *options: str, service: str = "TellingScripts") -> AsyncIterator[Node]:
    """Yield a server on a database, and stop it in the end."""
    started = await start_node(url, *options, service=service)
    try:
        yield started
    finally:
        await started.stop()
