"""Processes that a server starts for its handlers."""

import os
import signal
from pathlib import Path

import pytest
from google.longrunning import operations_pb2

BUSY = """
import os
import time
from pathlib import Path

import outlast
from outlastapi.script.v1 import script_pb2, script_pb2_grpc


def work(seconds):
    Path(f"pid-{os.getpid()}").touch()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(10_000))


class Busy(script_pb2_grpc.ScriptServiceServicer):
    @outlast.long_running()
    async def RunScript(self, request, operation):
        await operation.run_in_process(work, 3600)

    @outlast.long_running()
    async def EraseScript(self, request, operation):
        await operation.run_in_process(work, 0)
        await operation.run_in_thread(Path("idle").touch)
        raise SystemExit
"""


def alive(pid):
    """Return whether a process still does something: not if it has ended unnoticed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(folder):
    return [int(each.name.removeprefix("pid-")) for each in folder.glob("pid-*")]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("method", ["RunScript", "EraseScript"], ids=["busy", "idle"])
def test_a_killed_server_leaves_no_process_behind(serve, folder, eventually, method):
    (folder / "busy_service.py").write_text(BUSY, encoding="utf-8")
    server = serve("--service", "busy_service:Busy")
    start = server.channel.unary_unary(
        f"/outlastapi.script.v1.ScriptService/{method}",
        response_deserializer=operations_pb2.Operation.FromString,
    )
    start(b"", timeout=30)
    eventually((lambda: children(folder)) if method == "RunScript" else (folder / "idle").exists)
    (child,) = children(folder)
    assert child not in (server.process.pid, os.getpid())
    assert alive(child)

    server.kill()

    try:
        eventually(lambda: not alive(child))
    finally:
        if alive(child):
            os.kill(child, signal.SIGKILL)
