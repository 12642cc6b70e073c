"""`outlast serve` and `worker` in processes of their own, and what their callers do."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import duration_pb2
from grpc_health.v1 import health_pb2_grpc
from outlastapi.imaging.v1 import imaging_pb2_grpc
from outlastapi.script.v1 import script_pb2, script_pb2_grpc
from outlastapi.v1.operation_metadata_pb2 import OperationMetadata

TIMEOUT = 30
"""Seconds for what is over in one, on a machine that has time."""


class ServerProcess:
    """A server that has said that it is ready, and a channel to it.

    It works in `folder`, and keeps its operations there: the next one goes on with them.
    """

    def __init__(
        self, folder: Path, *arguments: str, role: str = "serve", **environment: str
    ) -> None:
        self._folder = folder
        self._log = folder / f"server {len(list(folder.glob('server *.log')))}.log"
        command = [sys.executable, "-m", "outlast", role, "--listen", "127.0.0.1:0"]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *arguments],
                cwd=folder,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.ready_line = self.process.stdout.readline()
        ready = re.match(r"Ready at (\S+?)(?: for health checks)?,", self.ready_line)
        self.ready_time = time.time()
        assert ready, self.log
        self.address = ready[1]
        self.channel = grpc.insecure_channel(self.address)
        self.operations = operations_pb2_grpc.OperationsStub(self.channel)
        self.imaging = imaging_pb2_grpc.ImagingServiceStub(self.channel)
        self.script = script_pb2_grpc.ScriptServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def run_script(self, *steps: Any) -> str:
        """Start an operation that takes the steps; return its name."""
        request = script_pb2.RunScriptRequest(steps=steps)
        return self.script.RunScript(request, timeout=TIMEOUT).name

    def get(self, name: str) -> operations_pb2.Operation:
        request = operations_pb2.GetOperationRequest(name=name)
        return self.operations.GetOperation(request, timeout=TIMEOUT)

    def result(self, name: str) -> operations_pb2.Operation:
        """Return the operation when it is done."""
        request = operations_pb2.WaitOperationRequest(
            name=name, timeout=duration_pb2.Duration(seconds=TIMEOUT)
        )
        operation = self.operations.WaitOperation(request, timeout=2 * TIMEOUT)
        assert operation.done, operation
        return operation

    def pause(self, store: str = "outlast.db") -> None:
        """Stop the process where it is, but not while it keeps others from writing."""
        with closing(sqlite3.connect(self._folder / store, timeout=0)) as connection:
            while True:
                self.process.send_signal(signal.SIGSTOP)
                os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)
                try:
                    connection.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError:  # it, or another server, writes just now
                    self.resume()
                else:
                    connection.execute("ROLLBACK")
                    return

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Give the server no chance to do anything more."""
        self.process.kill()
        self.process.wait(TIMEOUT)

    def close(self) -> None:
        self.channel.close()
        self.kill()
        self.process.stdout.close()


Serve = Callable[..., ServerProcess]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "a folder with spaces"
    folder.mkdir()
    return folder


@pytest.fixture
def serve(folder: Path) -> Iterator[Serve]:
    """Start servers one after the other; what still runs in the end is killed."""
    with ExitStack() as stack:

        def serve(*arguments: str, **options: str) -> ServerProcess:
            server = ServerProcess(folder, *arguments, **options)
            stack.callback(server.close)
            return server

        yield serve


@pytest.fixture
def work(serve: Serve) -> Serve:
    """Start workers, whose address answers health checks only."""
    return partial(serve, role="worker")


@pytest.fixture(scope="session")
def eventually() -> Callable[[Callable[[], Any]], None]:
    """Return as soon as something is true of another process."""

    def eventually(holds: Callable[[], Any]) -> None:
        end = time.monotonic() + TIMEOUT
        while not holds():
            assert time.monotonic() < end
            time.sleep(0.01)

    return eventually


@pytest.fixture(scope="session")
def state_of() -> Callable[[operations_pb2.Operation], OperationMetadata]:
    """Unpack what the framework says of an operation that a script runs."""

    def state_of(operation: operations_pb2.Operation) -> OperationMetadata:
        metadata = script_pb2.RunScriptMetadata()
        assert operation.metadata.Unpack(metadata)
        return metadata.operation

    return state_of
