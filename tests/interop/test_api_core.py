"""Google's client library for Python: its futures, sync and asyncio."""

import grpc
import pytest
from google.api_core import exceptions, operation, operation_async, operations_v1
from google.api_core.future import async_future, polling
from google.protobuf import empty_pb2
from google.rpc import code_pb2
from outlastapi.imaging.v1 import imaging_pb2, imaging_pb2_grpc
from outlastapi.v1.operation_metadata_pb2 import OperationMetadata

# As by default, but not a second apart.
OFTEN = polling.DEFAULT_POLLING.with_delay(initial=0.02, maximum=0.1)
OFTEN_ASYNC = async_future.DEFAULT_RETRY.with_delay(initial=0.02, maximum=0.1)
IMAGE = {
    "result_type": imaging_pb2.Image,
    "metadata_type": imaging_pb2.ProcessImageMetadata,
}
NOTHING = {"result_type": empty_pb2.Empty, "metadata_type": OperationMetadata}


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture
def imaging(channel):
    return imaging_pb2_grpc.ImagingServiceStub(channel)


@pytest.fixture
def client(channel):
    return operations_v1.OperationsClient(channel)


def test_a_future_returns_the_image_and_tells_its_metadata(server, imaging, client):
    started = imaging.ProcessImage(server.request(widths=(32, 16)))
    future = operation.from_gapic(started, client, polling=OFTEN, **IMAGE)

    image = future.result(timeout=30)

    assert [each.width for each in image.derivatives] == [32, 16]
    assert future.done()
    assert not future.cancelled()
    assert future.metadata.operation.state == OperationMetadata.SUCCEEDED
    assert future.metadata.image == image.name
    assert imaging.GetImage(imaging_pb2.GetImageRequest(name=image.name)) == image


def test_a_future_that_is_cancelled_raises_cancelled(server, imaging, client):
    started = imaging.ProcessImage(server.endless_request())
    future = operation.from_gapic(started, client, polling=OFTEN, **IMAGE)

    assert future.cancel()

    with pytest.raises(exceptions.Cancelled):
        future.result(timeout=30)
    assert future.cancelled()
    assert future.metadata.operation.state == OperationMetadata.CANCELLED


def test_a_future_raises_the_exception_of_the_errors_code(server, imaging, client):
    started = imaging.ProcessImage(server.request("broken.jpg"))
    future = operation.from_gapic(started, client, polling=OFTEN, **IMAGE)

    with pytest.raises(exceptions.InvalidArgument, match="broken"):
        future.result(timeout=30)

    assert isinstance(future.exception(), exceptions.InvalidArgument)
    assert future.metadata.operation.attempt == 1


def test_a_deletion_ends_with_empty(server, imaging, client):
    started = imaging.ProcessImage(server.request())
    image = operation.from_gapic(started, client, polling=OFTEN, **IMAGE).result(timeout=30)
    request = imaging_pb2.DeleteImageRequest(name=image.name)
    future = operation.from_gapic(imaging.DeleteImage(request), client, polling=OFTEN, **NOTHING)

    assert future.result(timeout=30) == empty_pb2.Empty()

    assert future.metadata.target == image.name
    with pytest.raises(grpc.RpcError):
        imaging.GetImage(imaging_pb2.GetImageRequest(name=image.name))


def test_the_client_lists_and_deletes_operations(server, imaging, client):
    failed = imaging.ProcessImage(server.request("broken.jpg"))
    future = operation.from_gapic(failed, client, polling=OFTEN, **IMAGE)
    assert future.exception(timeout=30)
    name = failed.name

    assert name in [each.name for each in client.list_operations("operations", "error.code = 3")]
    assert name not in [each.name for each in client.list_operations("operations", "done = false")]
    client.delete_operation(name)
    with pytest.raises(exceptions.NotFound) as missing:
        client.get_operation(name)
    assert missing.value.reason == "OPERATION_NOT_FOUND"


@pytest.fixture
async def async_channel(server):
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture
def async_imaging(async_channel):
    return imaging_pb2_grpc.ImagingServiceStub(async_channel)


@pytest.fixture
def async_client(async_channel):
    return operations_v1.OperationsAsyncClient(async_channel)


async def test_an_asyncio_future_returns_the_image_and_tells_its_metadata(
    server, async_imaging, async_client
):
    started = await async_imaging.ProcessImage(server.request())
    future = operation_async.from_gapic(started, async_client, retry=OFTEN_ASYNC, **IMAGE)

    image = await future.result(timeout=30)

    assert [each.width for each in image.derivatives] == [32]
    assert future.metadata.operation.state == OperationMetadata.SUCCEEDED


# The asyncio futures raise one exception for all codes, with the status inside.


async def test_an_asyncio_future_that_is_cancelled_says_so(server, async_imaging, async_client):
    started = await async_imaging.ProcessImage(server.endless_request())
    future = operation_async.from_gapic(started, async_client, retry=OFTEN_ASYNC, **IMAGE)

    assert await future.cancel()

    with pytest.raises(exceptions.GoogleAPICallError) as cancelled:
        await future.result(timeout=30)
    assert cancelled.value.errors[0].code == code_pb2.CANCELLED
    assert await future.cancelled()
    assert future.metadata.operation.state == OperationMetadata.CANCELLED


async def test_an_asyncio_future_raises_an_exception_with_the_error(
    server, async_imaging, async_client
):
    started = await async_imaging.ProcessImage(server.request("broken.jpg"))
    future = operation_async.from_gapic(started, async_client, retry=OFTEN_ASYNC, **IMAGE)

    with pytest.raises(exceptions.GoogleAPICallError, match="broken") as failed:
        await future.result(timeout=30)
    assert failed.value.errors[0].code == code_pb2.INVALID_ARGUMENT


async def test_an_asyncio_deletion_ends_with_empty(server, async_imaging, async_client):
    started = await async_imaging.ProcessImage(server.request())
    processing = operation_async.from_gapic(started, async_client, retry=OFTEN_ASYNC, **IMAGE)
    image = await processing.result(timeout=30)
    request = imaging_pb2.DeleteImageRequest(name=image.name)
    started = await async_imaging.DeleteImage(request)
    future = operation_async.from_gapic(started, async_client, retry=OFTEN_ASYNC, **NOTHING)

    assert await future.result(timeout=30) == empty_pb2.Empty()
    assert future.metadata.target == image.name
