"""Photographs made for a test, and a server to process them."""

import asyncio
import io
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import grpc
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from outlastapi.imaging.v1 import imaging_pb2, imaging_pb2_grpc
from outlastapi.v1 import operations_admin_pb2_grpc
from PIL import Image

import outlast
from outlast.domain.operation import Progress
from outlast.ports import Changes
from outlast_imaging import ImagingService

Encode = Callable[..., bytes]
Png = Callable[[int, int], bytes]
M = TypeVar("M", bound=Message)


@pytest.fixture(scope="session")
def encode() -> Encode:
    """Encode an image, as JPEG if nothing else is said."""

    def encode(image: Image.Image, image_format: str = "JPEG", **options: Any) -> bytes:
        encoded = io.BytesIO()
        image.save(encoded, image_format, **options)
        return encoded.getvalue()

    return encode


@pytest.fixture(scope="session")
def png_that_says() -> Png:
    """Make the beginning of a PNG that says it is so wide and so high."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    def png_that_says(width: int, height: int) -> bytes:
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        pixels = zlib.compress(bytes(1000))
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)

    return png_that_says


@pytest.fixture(scope="session")
def scene() -> Image.Image:
    """An image of 240 by 160 with large shapes that differ in all four corners."""
    image = Image.radial_gradient("L").resize((240, 160)).convert("RGB")
    image.paste("red", (0, 0, 90, 50))
    image.paste("lime", (180, 0, 240, 70))
    image.paste("blue", (0, 120, 70, 160))
    image.paste("yellow", (170, 110, 240, 160))
    return image


class Client:
    """Calls a server's imaging service and looks after its operations."""

    def __init__(self, server: outlast.Server, channel: grpc.aio.Channel) -> None:
        self.address = server.address
        self.channel = channel
        self.reported: list[Progress] = []
        """The progress in every snapshot that differs from the one before it."""
        self._changed = asyncio.Event()
        server.operations.engine.store.changes.subscribe(self._hear)
        self.imaging = imaging_pb2_grpc.ImagingServiceStub(channel)
        self.operations = operations_pb2_grpc.OperationsStub(channel)
        self.admin = operations_admin_pb2_grpc.OperationsAdminServiceStub(channel)

    async def wait(self, operation: operations_pb2.Operation) -> operations_pb2.Operation:
        """Return the operation once it is done."""
        while not operation.done:
            request = operations_pb2.WaitOperationRequest(name=operation.name)
            operation = await self.operations.WaitOperation(request)
        return operation

    async def process(self, photo: bytes, *specs: Any, **fields: Any) -> imaging_pb2.Image:
        """Return the image that a photograph becomes."""
        request = imaging_pb2.ProcessImageRequest(content=photo, derivatives=specs, **fields)
        return self.response(
            await self.wait(await self.imaging.ProcessImage(request)), imaging_pb2.Image
        )

    async def operation_count(self) -> int:
        listed = await self.operations.ListOperations(operations_pb2.ListOperationsRequest())
        return len(listed.operations)

    async def until(
        self, operation: operations_pb2.Operation, kind: type[M], holds: Callable[[M], bool]
    ) -> M:
        """Return the metadata of an operation that runs, once something is true of it."""
        get = operations_pb2.GetOperationRequest(name=operation.name)
        while not holds(metadata := self.metadata(operation, kind)):
            assert not operation.done
            await self._changed.wait()
            self._changed.clear()
            operation = await self.operations.GetOperation(get)
        return metadata

    def _hear(self, changes: Changes) -> None:
        self._changed.set()
        for change in changes or ():
            progress = change.record and change.record.progress
            if progress and progress not in self.reported[-1:]:
                self.reported.append(progress)

    @staticmethod
    def reason(status: status_pb2.Status) -> str:
        """Return the reason in the ErrorInfo of a status."""
        kind = error_details_pb2.ErrorInfo
        (info,) = [each for each in status.details if each.Is(kind.DESCRIPTOR)]
        return kind.FromString(info.value).reason

    async def refusal(self, call: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
        """Return the code and the reason that a call is refused with."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        status = rpc_status.from_call(cast("grpc.Call", caught.value))
        assert status is not None
        return caught.value.code(), self.reason(status)

    @staticmethod
    def response(operation: operations_pb2.Operation, kind: type[M]) -> M:
        """Return the response of an operation that succeeded."""
        assert operation.WhichOneof("result") == "response", operation.error
        message = kind()
        assert operation.response.Unpack(message)
        return message

    @staticmethod
    def metadata(operation: operations_pb2.Operation, kind: type[M]) -> M:
        """Return the metadata of an operation."""
        message = kind()
        assert operation.metadata.Unpack(message)
        return message


Serve = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """The folder that the server of `serve` reads files from."""
    photos = tmp_path / "photos"
    photos.mkdir()
    return photos


@pytest.fixture
def artifacts(tmp_path: Path) -> str:
    """Return where the server of `serve` keeps what it makes; a test module may replace it."""
    return str(tmp_path / "artifacts")


@pytest.fixture
def serve(artifacts: str, photos: Path) -> Serve:
    """Run a server with the imaging service and yield a client of it."""
    service = ImagingService(artifacts=artifacts, root=photos)

    @asynccontextmanager
    async def serve(*, store: str = "memory:", execute: bool = True) -> AsyncIterator[Client]:
        config = outlast.ServerConfig(
            store=store, listen="127.0.0.1:0", execute=execute, grace=timedelta()
        )
        async with (
            outlast.Server(services=[service], config=config) as server,
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            yield Client(server, channel)

    return serve
