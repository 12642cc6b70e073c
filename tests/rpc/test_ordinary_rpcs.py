"""What a service has besides long-running methods, and what it raises there."""

import asyncio

import grpc
import pytest
from outlastapi.imaging.v1 import imaging_pb2, imaging_pb2_grpc

from outlast_script import ScriptService


class UnheardError(BaseException):
    """Nobody expects it."""


RAISED = [
    RuntimeError("secret"),
    SystemExit("secret"),
    KeyboardInterrupt("secret"),
    GeneratorExit("secret"),
    asyncio.CancelledError("secret"),
    StopAsyncIteration("secret"),
    UnheardError("secret"),
]


class Ordinary(imaging_pb2_grpc.ImagingServiceServicer):
    """RPCs that are not long-running, and raise."""

    def __init__(self, error):
        self.error = error

    async def GetImage(self, request, context):
        raise self.error

    async def DownloadDerivative(self, request, context):
        yield imaging_pb2.DownloadDerivativeResponse(data=b"first")
        raise self.error


@pytest.mark.assertion(59)
@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
async def test_an_ordinary_rpc_that_raises_anything_keeps_its_text_to_itself(serving, error):
    async with serving(ScriptService(), Ordinary(error)) as client:
        stub = imaging_pb2_grpc.ImagingServiceStub(client.channel)
        stream = stub.DownloadDerivative(imaging_pb2.DownloadDerivativeRequest(), timeout=20)
        assert (await stream.read()).data == b"first"
        answer = stub.GetImage(imaging_pb2.GetImageRequest(), timeout=20)
        for call in (answer, stream.read()):
            refusal = await client.refused(call)
            assert refusal.code is grpc.StatusCode.INTERNAL
            assert refusal.message == "the request failed unexpectedly"
            assert refusal.info.reason == "UNEXPECTED_FAILURE"
            assert b"secret" not in refusal.status.SerializeToString()
        await client.check_alive()


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
async def test_a_validate_that_raises_anything_keeps_its_text_to_itself(serving, scripted, error):
    def validate(_request):
        raise error

    async with serving(scripted(validate=validate)) as client:
        refusal = await client.refused(client.run())
        assert refusal.code is grpc.StatusCode.INTERNAL
        assert refusal.info.reason == "UNEXPECTED_FAILURE"
        assert b"secret" not in refusal.status.SerializeToString()
        assert await client.names() == []


async def test_an_ordinary_rpc_is_not_called_with_what_is_refused(serving):
    servicer = Ordinary(RuntimeError("secret"))
    async with serving(ScriptService(), servicer, max_request_bytes=1024) as client:
        service = f"/{imaging_pb2.DESCRIPTOR.services_by_name['ImagingService'].full_name}"
        get = client.channel.unary_unary(f"{service}/GetImage")
        download = client.channel.unary_stream(f"{service}/DownloadDerivative")
        for request, code in {
            b"\x0a\xff": grpc.StatusCode.INVALID_ARGUMENT,
            bytes(1025): grpc.StatusCode.RESOURCE_EXHAUSTED,
        }.items():
            for call in (get(request, timeout=20), download(request, timeout=20).read()):
                assert (await client.refused(call)).code is code
        await client.check_alive()
