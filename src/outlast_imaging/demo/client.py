"""Calls the imaging service through the generated client, and does not give up on a dead server."""

import hashlib
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from outlastapi.imaging.v1 import imaging_pb2, imaging_pb2_grpc

_Spec = imaging_pb2.DerivativeSpec
_SPECS = (
    _Spec(width=1280, height=1280, format=_Spec.AVIF),
    _Spec(width=640, height=640),
    _Spec(width=256, height=256, fit=_Spec.COVER, format=_Spec.WEBP),
)
_LOOK_INTERVAL = timedelta(seconds=0.2)
_CALL_SECONDS = 60

CHANNEL_OPTIONS = (
    # The server is back within a second of its death; look for it as often.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class ImagingClient:
    """Starts and follows operations. Calls that a dying server lost are made again."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._imaging = imaging_pb2_grpc.ImagingServiceStub(channel)
        self._operations = operations_pb2_grpc.OperationsStub(channel)

    async def start(self, photo: Path, digest: bytes) -> operations_pb2.Operation:
        """Start to process a photograph, or find the operation that did so before."""
        request = imaging_pb2.ProcessImageRequest(uri=photo.as_uri(), derivatives=_SPECS)
        request.request_id = _request_id(request, digest)
        operation: operations_pb2.Operation = await _patiently(self._imaging.ProcessImage, request)
        return operation

    async def follow(
        self,
        operation: operations_pb2.Operation,
        show: Callable[[operations_pb2.Operation], None],
    ) -> operations_pb2.Operation:
        """Show an operation whenever it may have changed; return it when it is done."""
        request = operations_pb2.WaitOperationRequest(name=operation.name, timeout=_LOOK_INTERVAL)
        show(operation)
        while not operation.done:
            operation = await _patiently(self._operations.WaitOperation, request)
            show(operation)
        return operation


def _request_id(request: imaging_pb2.ProcessImageRequest, digest: bytes) -> str:
    """Return an id that is the same for the same request about the same bytes."""
    content = hashlib.sha256(digest + request.SerializeToString(deterministic=True)).digest()
    return str(uuid.UUID(bytes=content[:16], version=4))


async def _patiently(method: Callable[..., Any], request: object) -> Any:
    while True:
        try:
            # It waits for a connection, so to go on at once is not to go round in circles.
            return await method(request, wait_for_ready=True, timeout=_CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
