"""The servers that are measured, each in a process of its own.

`python -m benchmarks.servers bare` answers every call with one prepared message;
`python -m benchmarks.servers outlast FOLDER [--no-execute]` is Outlast on SQLite.
Both print their address when they are ready.
"""

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import uvloop
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import empty_pb2
from outlastapi.script.v1 import script_pb2, script_pb2_grpc
from outlastapi.v1 import operation_metadata_pb2

import outlast
from outlast.server.garbage import collect_garbage_seldom


class NoOpScripts(script_pb2_grpc.ScriptServiceServicer):
    """Operations that do nothing but sleep if told to, and say when they began and ended."""

    @outlast.long_running()
    async def RunScript(
        self,
        request: script_pb2.RunScriptRequest,
        operation: outlast.OperationContext[script_pb2.RunScriptMetadata],
    ) -> script_pb2.RunScriptResponse:
        began = time.monotonic()
        for step in request.steps:
            await asyncio.sleep(step.sleep.ToTimedelta().total_seconds())
        return script_pb2.RunScriptResponse(text=f"{began} {time.monotonic()}")

    @outlast.long_running()
    async def EraseScript(
        self,
        request: script_pb2.EraseScriptRequest,
        operation: outlast.OperationContext[operation_metadata_pb2.OperationMetadata],
    ) -> empty_pb2.Empty:
        return empty_pb2.Empty()


class TellingScripts(NoOpScripts):
    """The same; they tell on stdout, with the machine's monotonic clock, what befalls them."""

    @outlast.long_running()
    async def RunScript(
        self,
        request: script_pb2.RunScriptRequest,
        operation: outlast.OperationContext[script_pb2.RunScriptMetadata],
    ) -> script_pb2.RunScriptResponse:
        print("running", operation.name, time.monotonic(), flush=True)
        try:
            for step in request.steps:
                await asyncio.sleep(step.sleep.ToTimedelta().total_seconds())
        except asyncio.CancelledError:
            print("cancelled", operation.name, time.monotonic(), flush=True)
            raise
        return script_pb2.RunScriptResponse()


class BareOperations(operations_pb2_grpc.OperationsServicer):
    """Returns what it was made with, at once."""

    def __init__(self, answer: operations_pb2.Operation) -> None:
        self._answer = answer

    async def GetOperation(self, request: Any, context: Any) -> operations_pb2.Operation:
        return self._answer


class BareScripts(script_pb2_grpc.ScriptServiceServicer):
    """Returns what it was made with, at once."""

    def __init__(self, answer: operations_pb2.Operation) -> None:
        self._answer = answer

    async def RunScript(self, request: Any, context: Any) -> operations_pb2.Operation:
        return self._answer

    async def EraseScript(self, request: Any, context: Any) -> operations_pb2.Operation:
        return self._answer


async def serve_bare(answer: bytes) -> None:
    """Serve one prepared operation."""
    operation = operations_pb2.Operation.FromString(answer)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    operations_pb2_grpc.add_OperationsServicer_to_server(BareOperations(operation), server)
    script_pb2_grpc.add_ScriptServiceServicer_to_server(BareScripts(operation), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


async def serve_outlast(folder: Path, *, execute: bool) -> None:
    """Serve no-ops on an SQLite file, as `outlast serve` does."""
    config = outlast.ServerConfig(
        store=str(folder / "operations.db"),
        listen="127.0.0.1:0",
        execute=execute,
        engine=outlast.EngineSettings(max_pending=10_000_000),
    )
    async with outlast.Server(services=[NoOpScripts()], config=config) as server:
        print(server.address, flush=True)
        await server.run()


def main() -> None:
    """Run the server that the arguments name, on the event loop that `outlast serve` uses."""
    kind, *rest = sys.argv[1:]
    collect_garbage_seldom()
    if kind == "bare":
        uvloop.run(serve_bare(bytes.fromhex(rest[0])))
    else:
        uvloop.run(serve_outlast(Path(rest[0]), execute="--no-execute" not in rest))


if __name__ == "__main__":
    main()
