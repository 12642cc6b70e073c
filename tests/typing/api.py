"""What type checkers must accept of the public names, and infer. It is checked and never run."""

from datetime import timedelta
from typing import assert_type

import grpc
from google.protobuf import empty_pb2
from outlastapi.script.v1 import script_pb2, script_pb2_grpc
from outlastapi.v1 import operation_metadata_pb2

import outlast


def check(request: script_pb2.RunScriptRequest) -> None:
    if not request.steps:
        raise outlast.InvalidArgumentError("steps", "must not be empty")


async def check_later(service: "Service", request: script_pb2.EraseScriptRequest) -> None:
    if service.full and request.steps:
        raise outlast.ServiceError(outlast.Code.RESOURCE_EXHAUSTED, "full", reason="SHELF_FULL")


def count(text: str, times: int) -> int:
    return len(text) * times


async def count_later(text: str) -> int:
    return len(text)


async def nothing() -> None:
    return None


class Service(script_pb2_grpc.ScriptServiceServicer):
    """A servicer of generated code: its abstract methods are there, and of the right types."""

    full = False

    @outlast.long_running(
        retry=outlast.RetryPolicy(max_attempts=3, codes=frozenset({outlast.Code.UNAVAILABLE})),
        timeout=timedelta(minutes=10),
        retention=timedelta(days=7),
        concurrency=4,
        max_running=8,
        validate=check,
        exclusive=lambda request: request.exclusive_key,
        target=lambda request: f"books/{request.parent}",
    )
    async def RunScript(
        self,
        request: script_pb2.RunScriptRequest,
        operation: outlast.OperationContext[script_pb2.RunScriptMetadata],
    ) -> script_pb2.RunScriptResponse:
        assert_type(operation.metadata, script_pb2.RunScriptMetadata)
        assert_type(operation.name, str)
        assert_type(operation.attempt, int)
        assert_type(operation.cancel_requested, bool)
        assert_type(await operation.step("a", count, "x", 2), int)
        assert_type(await operation.step("b", count_later, "x"), int)
        assert_type(await operation.step("c", lambda: "text"), str)
        counted: int = await operation.step("d", operation.run_in_process, count, "x", 2)
        assert_type(counted, int)
        await operation.step("e", nothing)
        policy = outlast.RetryPolicy(max_attempts=2)
        assert_type(await operation.step("f", count, "x", 2, retry=policy), int)
        assert_type(await operation.step("g", count_later, "x", retry=policy), int)
        assert_type(await operation.run_in_process(count, "x", 2), int)
        assert_type(await operation.run_in_thread(count, "x", 2), int)
        await operation.progress(completed=1, total=2, stage="count", message="one")
        if self.full:
            raise outlast.OperationFailed(
                outlast.Code.UNAVAILABLE, "later", retry_delay=timedelta(seconds=1)
            )
        return script_pb2.RunScriptResponse()

    @outlast.long_running(validate=check_later)
    async def EraseScript(
        self,
        request: script_pb2.EraseScriptRequest,
        operation: outlast.OperationContext[operation_metadata_pb2.OperationMetadata],
    ) -> empty_pb2.Empty:
        return empty_pb2.Empty()


class Wrong(Service):
    """What type checkers must refuse; where they do not, the ignored errors are unused."""

    @outlast.long_running()
    async def RunScript(  # type: ignore[override]
        self,
        request: script_pb2.EraseScriptRequest,
        operation: outlast.OperationContext[script_pb2.RunScriptMetadata],
    ) -> script_pb2.RunScriptResponse:
        operation.metadata.pages = 1  # type: ignore[attr-defined]
        await operation.progress(completed="half")  # type: ignore[arg-type]
        return script_pb2.RunScriptResponse()

    @outlast.long_running(timeout=5)  # type: ignore[arg-type]
    async def EraseScript(
        self,
        request: script_pb2.EraseScriptRequest,
        operation: outlast.OperationContext[operation_metadata_pb2.OperationMetadata],
    ) -> empty_pb2.Empty:
        return empty_pb2.Empty()


async def serve() -> None:
    config = outlast.ServerConfig(
        store="outlast.db",
        listen="127.0.0.1:0",
        grace=timedelta(seconds=5),
        engine=outlast.EngineSettings(concurrency=8),
    )
    async with outlast.Server(services=[Service()], config=config) as server:
        assert_type(server.address, str)
        assert_type(server.operations, outlast.Operations)
        await server.run()


async def attach() -> None:
    server = grpc.aio.server()
    async with outlast.Operations.open("memory:", services=[Service()]) as operations:
        operations.add_to(server)
        await server.start()
        await server.wait_for_termination()
