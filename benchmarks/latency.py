"""How long a caller of an idle server waits: one operation after the other."""

import time
from pathlib import Path

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from outlastapi.script.v1 import script_pb2, script_pb2_grpc

from benchmarks.load import percentile, serving

# Long enough for the waiting call to be parked, and for the server to be idle again.
_WORK = script_pb2.RunScriptRequest(steps=[script_pb2.Step(sleep=Duration(nanos=20_000_000))])


async def measure(folder: Path, operations: int) -> None:
    """Print percentiles; both processes read the same monotonic clock of the machine."""
    (folder / "latency").mkdir()
    with serving("outlast", str(folder / "latency")) as server:
        to_handler, to_reply = await sample(server.address, operations)
    print(f"\nLatency, idle server, {operations} operations one after the other")
    print(f"{'':34}{'p50 ms':>8}{'p99 ms':>8}   target")
    _print("start reply to handler running", to_handler, "p50 <= 2")
    _print("completion to WaitOperation reply", to_reply, "p99 <= 5")


async def sample(address: str, operations: int) -> tuple[list[float], list[float]]:
    """Return seconds from start replies to handlers, and from their ends to WaitOperation's."""
    to_handler: list[float] = []
    to_reply: list[float] = []
    async with grpc.aio.insecure_channel(address) as channel:
        scripts = script_pb2_grpc.ScriptServiceStub(channel)
        waits = operations_pb2_grpc.OperationsStub(channel)
        for _ in range(operations):
            started = await scripts.RunScript(_WORK)
            replied = time.monotonic()
            request = operations_pb2.WaitOperationRequest(name=started.name)
            done = await waits.WaitOperation(request)
            noticed = time.monotonic()
            response = script_pb2.RunScriptResponse()
            done.response.Unpack(response)
            began, ended = map(float, response.text.split())
            to_handler.append(began - replied)
            to_reply.append(noticed - ended)
    return to_handler, to_reply


def _print(name: str, seconds: list[float], target: str) -> None:
    p50, p99 = (percentile(seconds, share) * 1000 for share in (0.5, 0.99))
    print(f"{name:34}{p50:8.2f}{p99:8.2f}   {target}")
