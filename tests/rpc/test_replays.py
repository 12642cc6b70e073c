"""A retried start gives the same operation, also when the request is not valid any more."""

from uuid import uuid4

import grpc
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from outlastapi.script.v1 import script_pb2, script_pb2_grpc

import outlast


class Unrepeatable(script_pb2_grpc.ScriptServiceServicer):
    """Accepts one request: from then on every request is refused."""

    def __init__(self) -> None:
        self.checked = 0

    def check(self, request):
        self.checked += 1
        if self.checked > 1:
            raise outlast.ServiceError(outlast.Code.NOT_FOUND, "it is gone", reason="GONE")

    @outlast.long_running(validate=check)
    async def RunScript(self, request, operation):
        return script_pb2.RunScriptResponse(text="done")

    @outlast.long_running()
    async def EraseScript(self, request, operation):
        raise AssertionError


@pytest.fixture(params=["memory:", "operations.db"])
def config(request, tmp_path):
    store = request.param if request.param == "memory:" else str(tmp_path / request.param)
    return outlast.ServerConfig(store=store, listen="127.0.0.1:0")


@pytest.mark.assertion(20, 21)
async def test_a_retry_is_answered_although_its_first_try_has_made_it_invalid(config):
    async with (
        outlast.Server(services=[Unrepeatable()], config=config) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        scripts = script_pb2_grpc.ScriptServiceStub(channel)
        request = script_pb2.RunScriptRequest(request_id=str(uuid4()))
        first = await scripts.RunScript(request)
        operations = operations_pb2_grpc.OperationsStub(channel)
        wait = operations_pb2.WaitOperationRequest(name=first.name)
        done = await operations.WaitOperation(wait)
        assert await scripts.RunScript(request) == done

        for other in (
            script_pb2.RunScriptRequest(request_id=str(uuid4())),
            script_pb2.RunScriptRequest(),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await scripts.RunScript(other)
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        listed = await operations.ListOperations(operations_pb2.ListOperationsRequest())
        assert [operation.name for operation in listed.operations] == [first.name]
