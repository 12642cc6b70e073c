"""Processes that a server starts for its handlers, and what these start in their turn."""

import os
import signal
from pathlib import Path

import pytest
from google.longrunning import operations_pb2

SERVICE = """
import os
import re
import subprocess
from datetime import timedelta
from pathlib import Path

import outlast
from outlastapi.script.v1 import script_pb2_grpc


def busy():
    subprocess.Popen(["sleep", "3600"])
    Path("group").write_text(str(os.getpgrp()))
    Path("busy").touch()
    re.match("(a+)+$", "a" * 100 + "b")  # keeps the interpreter to itself, for years


def idle():
    Path("group").write_text(str(os.getpgrp()))


def large(megabytes):
    for _ in range(megabytes):
        print("x" * 2**20)
    return bytes(megabytes * 2**20)


class Busy(script_pb2_grpc.ScriptServiceServicer):
    @outlast.long_running()
    async def RunScript(self, request, operation):
        await operation.run_in_process(busy)

    @outlast.long_running(timeout=timedelta(seconds=3))
    async def EraseScript(self, request, operation):
        await operation.run_in_process(busy)


class Idle(script_pb2_grpc.ScriptServiceServicer):
    @outlast.long_running()
    async def RunScript(self, request, operation):
        await operation.run_in_process(idle)
        raise SystemExit

    EraseScript = RunScript


class Large(script_pb2_grpc.ScriptServiceServicer):
    @outlast.long_running()
    async def RunScript(self, request, operation):
        await operation.run_in_process(large, 64)

    EraseScript = RunScript
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


@pytest.fixture
def processes(folder):
    """Return what lists the group that the work is in; what is left in the end is killed."""
    (folder / "busy_service.py").write_text(SERVICE, encoding="utf-8")

    def processes():
        if not (folder / "group").exists():
            return []
        group = (folder / "group").read_text(encoding="utf-8")
        everybody = (int(each.name) for each in Path("/proc").glob("[0-9]*"))
        return [pid for pid in everybody if works(pid, group)]

    yield processes
    for pid in processes():
        os.kill(pid, signal.SIGKILL)


def works(pid, group):
    """Return whether a process of a group still does something: not if it has ended."""
    try:
        state, _, its_group, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return its_group == group and state != "Z"


def cancel(server, name):
    server.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=name), timeout=30)
    assert server.result(name).error.code == 1


def deadline(server, name):
    assert server.result(name).error.code == 4


def kill(server, _):
    server.kill()


def terminate(server, _):
    server.terminate()
    assert server.process.wait(30) == 0


@pytest.mark.parametrize("end", [cancel, deadline, kill, terminate], ids=lambda it: it.__name__)
def test_no_process_and_nothing_that_it_has_started_is_left_after(
    serve, folder, eventually, processes, end
):
    server = serve("--service", "busy_service:Busy", "--grace", "0s")
    method = "EraseScript" if end is deadline else "RunScript"
    start = server.channel.unary_unary(
        f"/outlastapi.script.v1.ScriptService/{method}",
        response_deserializer=operations_pb2.Operation.FromString,
    )
    name = start(b"", timeout=30).name
    if end is not deadline:  # which does not wait for us
        eventually((folder / "busy").exists)
        assert len(processes()) == 3  # the worker, its guard, and what the work has started

    end(server, name)

    eventually(lambda: not processes())


def test_a_killed_server_leaves_no_idle_process_behind(serve, eventually, processes):
    server = serve("--service", "busy_service:Idle")
    server.run_script()
    eventually(lambda: "SystemExit" in server.log)
    assert len(processes()) == 2

    server.kill()

    eventually(lambda: not processes())


def peak_memory(server):
    """Return the most memory that a server has had, in KiB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])


@pytest.mark.usefixtures("processes")
def test_what_a_process_sends_and_prints_does_not_fill_the_server(serve):
    server = serve("--service", "busy_service:Large", "--set", "max_process_bytes=1000000")
    before = peak_memory(server)

    done = server.result(server.run_script())

    assert done.error.code == 8
    assert "another process sends back has 67108" in done.error.message
    assert server.log.count("x" * 2**20) == 64
    assert peak_memory(server) - before < 32 * 1024
