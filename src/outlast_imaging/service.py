"""The imaging service: what each RPC does."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

from google.protobuf import empty_pb2
from google.rpc import status_pb2
from outlastapi.imaging.v1 import imaging_pb2, imaging_pb2_grpc
from outlastapi.v1 import operation_metadata_pb2

import outlast
from outlast_imaging.artifacts import ArtifactStore
from outlast_imaging.catalogue import Catalogue
from outlast_imaging.errors import (
    PhotoAbandonedError,
    ending_the_operation,
    refusing_the_request,
)
from outlast_imaging.limits import MAX_PROCESS_TRIES, MAX_TOLD_FAILURES
from outlast_imaging.names import check_album, check_derivative, check_image, image_of_operation
from outlast_imaging.sources import Location, SourceFolder, list_photos
from outlast_imaging.specs import resolve_all
from outlast_imaging.work import (
    failed_photo,
    import_photo,
    make_derivative,
    original,
    take_photo,
)

T = TypeVar("T")

_NONE_IMPORTED = (
    "None of the requests succeeded, refer to the ImportImagesMetadata.failed_requests "
    "for individual error details"
)

_PROCESS_DIED = "PROCESS_DIED"
_ABANDONED = "the process that worked on the photograph died each time that it was tried"


class ImagingService(imaging_pb2_grpc.ImagingServiceServicer):
    """Processes photographs with Pillow, in processes of their own.

    Every image, and each of its derivatives, is made under a name that follows from
    its operation, and is recorded as a step: work that was interrupted goes on with the
    first step that has no record, or has lost its file.
    """

    def __init__(self, *, artifacts: str = "artifacts", root: Path | None = None) -> None:
        """Keep what is made below a folder, or an fsspec URL that other processes reach too.

        `root` is the folder that `file://` URIs may point into; without one they are
        refused.
        """
        self._artifacts = ArtifactStore(artifacts)
        self._catalogue = Catalogue(self._artifacts)
        self._folder = SourceFolder(root)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """Take OUTLAST_IMAGING_ARTIFACTS and OUTLAST_IMAGING_ROOT for the arguments."""
        root = environ.get("OUTLAST_IMAGING_ROOT")
        return cls(
            artifacts=environ.get("OUTLAST_IMAGING_ARTIFACTS") or "artifacts",
            root=Path(root) if root else None,
        )

    def _check_process(self, request: imaging_pb2.ProcessImageRequest) -> None:
        check_album(request.parent)
        resolve_all(request.derivatives)
        match request.WhichOneof("source"):
            case "uri":
                self._locate(request.uri)
            case "content" if request.content:
                pass
            case _:
                raise outlast.InvalidArgumentError("content", "a photograph or its uri is required")

    @outlast.long_running(validate=_check_process, timeout=timedelta(minutes=10), concurrency=4)
    async def ProcessImage(
        self,
        request: imaging_pb2.ProcessImageRequest,
        operation: outlast.OperationContext[imaging_pb2.ProcessImageMetadata],
    ) -> imaging_pb2.Image:
        # Recorded, so that another operation that takes over the steps makes this image.
        image: str = await operation.step("image", image_of_operation, operation.name)
        try:
            with ending_the_operation():
                return await self._process(request, operation, image)
        except asyncio.CancelledError:
            if operation.cancel_requested:
                await operation.run_in_thread(self._catalogue.remove, image)
            raise

    async def _process(
        self,
        request: imaging_pb2.ProcessImageRequest,
        operation: outlast.OperationContext[imaging_pb2.ProcessImageMetadata],
        image: str,
    ) -> imaging_pb2.Image:
        """Do the work. What an attempt before has reported is not reported again."""
        specs = resolve_all(request.derivatives)
        store, metadata, total = self._artifacts.url, operation.metadata, len(specs) + 2
        if not metadata.image:
            metadata.image = image
            await operation.progress(total=total, stage="describe", message="decoding")
        source = self._locate(request.uri) if request.HasField("uri") else request.content
        take = partial(take_photo, store, image, source)
        description = await self._make(operation, "describe", take, partial(original, image))
        if not metadata.HasField("description"):
            metadata.description.CopyFrom(description)
            await operation.progress(completed=1, total=total, stage="derive", message="described")
        derivatives = []
        for number, spec in enumerate(specs, start=1):
            derive = partial(make_derivative, store, image, description, spec)
            derivative = await self._make(
                operation, f"derivative {number}", derive, lambda made: made.name
            )
            derivatives.append(derivative)
            if derivative.name not in metadata.derivatives:
                metadata.derivatives.append(derivative.name)
                await operation.progress(
                    completed=1 + number,
                    total=total,
                    stage="derive",
                    message=derivative.name.rpartition("/")[2],
                )
        made = imaging_pb2.Image(name=image, description=description, derivatives=derivatives)
        published = await operation.run_in_thread(self._catalogue.publish, made)
        await operation.progress(completed=total, total=total, stage="publish", message="done")
        return published

    async def _make(
        self,
        operation: outlast.OperationContext[imaging_pb2.ProcessImageMetadata],
        key: str,
        function: Callable[[], T],
        file: Callable[[T], str],
    ) -> T:
        """Take a step that makes a file, in a process, and return what it says of the file.

        A record without the file counts for nothing: an operation that is cancelled
        removes its files, and one that redrives it takes over its records.
        """
        made: T = await operation.step(key, operation.run_in_process, function)
        if await operation.run_in_thread(self._artifacts.exists, file(made)):
            return made
        return await operation.run_in_process(function)

    def _check_import(self, request: imaging_pb2.ImportImagesRequest) -> None:
        check_album(request.parent)
        resolve_all(request.derivatives)
        self._locate(request.uri)

    @outlast.long_running(
        validate=_check_import,
        timeout=timedelta(hours=6),
        concurrency=2,
        target=lambda request: request.uri,
    )
    async def ImportImages(
        self,
        request: imaging_pb2.ImportImagesRequest,
        operation: outlast.OperationContext[imaging_pb2.ImportImagesMetadata],
    ) -> imaging_pb2.ImportImagesResponse:
        folder, specs = self._locate(request.uri), resolve_all(request.derivatives)
        prefix: str = await operation.step("image", image_of_operation, operation.name)
        with ending_the_operation():
            # Recorded, so that the positions of the photographs stay what they are.
            photos: list[str] = await operation.step("list", list_photos, folder)
        metadata = operation.metadata
        if not metadata.photo_count:
            metadata.photo_count = len(photos)
            await operation.progress(total=len(photos), stage="import", message="listed")
        response = imaging_pb2.ImportImagesResponse()
        for index, photo in enumerate(photos):
            image = f"{prefix}-{index:04}"
            status: status_pb2.Status = await operation.step(
                f"photo {index}", self._import, operation, image, folder.child(photo), specs
            )
            if status.code == outlast.Code.OK:
                response.images.append(image)
            else:
                response.failed_count += 1
            if index == metadata.imported_count + metadata.failed_count:
                _count(metadata, index, status)
                await operation.progress(
                    completed=index + 1, total=len(photos), stage="import", message=_shown(photo)
                )
        if photos and not response.images:
            raise outlast.OperationFailed(
                outlast.Code.ABORTED, _NONE_IMPORTED, reason="NONE_IMPORTED"
            )
        return response

    async def _import(
        self,
        operation: outlast.OperationContext[imaging_pb2.ImportImagesMetadata],
        image: str,
        photo: Location,
        specs: Sequence[imaging_pb2.DerivativeSpec],
    ) -> status_pb2.Status:
        """Process a photograph of a folder; return why it failed, or a status of code OK.

        One that takes its process down is tried again, and then failed: others wait.
        """
        for _ in range(MAX_PROCESS_TRIES):
            try:
                return await operation.run_in_process(
                    import_photo, self._artifacts.url, image, photo, specs
                )
            except asyncio.CancelledError:
                if operation.cancel_requested:
                    await operation.run_in_thread(self._catalogue.remove_unpublished, image)
                raise
            except outlast.OutlastError as error:
                if error.reason != _PROCESS_DIED:
                    raise
        await operation.run_in_thread(self._catalogue.remove_unpublished, image)
        return failed_photo(PhotoAbandonedError(_PROCESS_DIED, _ABANDONED), photo)

    async def GetImage(
        self, request: imaging_pb2.GetImageRequest, context: object
    ) -> imaging_pb2.Image:
        return await asyncio.to_thread(self._catalogue.get, check_image(request.name))

    async def ListImages(
        self, request: imaging_pb2.ListImagesRequest, context: object
    ) -> imaging_pb2.ListImagesResponse:
        check_album(request.parent)
        return await asyncio.to_thread(self._catalogue.list_page, request)

    async def DownloadDerivative(
        self, request: imaging_pb2.DownloadDerivativeRequest, context: object
    ) -> AsyncIterator[imaging_pb2.DownloadDerivativeResponse]:
        name = check_derivative(request.name)
        derivative = await asyncio.to_thread(self._catalogue.get_derivative, name)
        if not 0 <= request.read_offset <= derivative.size_bytes:
            raise outlast.ServiceError(
                outlast.Code.OUT_OF_RANGE,
                f"read_offset must be from 0 to {derivative.size_bytes}",
                reason="READ_OFFSET_OUT_OF_RANGE",
                metadata={"size_bytes": str(derivative.size_bytes)},
            )
        chunks = self._catalogue.read_derivative(name, request.read_offset)
        while data := await asyncio.to_thread(next, chunks, b""):
            yield imaging_pb2.DownloadDerivativeResponse(data=data)

    async def _check_delete(self, request: imaging_pb2.DeleteImageRequest) -> None:
        await asyncio.to_thread(self._catalogue.get, check_image(request.name))

    @outlast.long_running(
        validate=_check_delete,
        timeout=timedelta(minutes=10),
        exclusive=lambda request: request.name,
    )
    async def DeleteImage(
        self,
        request: imaging_pb2.DeleteImageRequest,
        operation: outlast.OperationContext[operation_metadata_pb2.OperationMetadata],
    ) -> empty_pb2.Empty:
        await operation.run_in_thread(self._catalogue.remove, request.name)
        return empty_pb2.Empty()

    def _locate(self, uri: str) -> Location:
        """Return the place that a URI of a request names; the caller learns what is wrong."""
        with refusing_the_request():
            return self._folder.locate(uri)


def _count(
    metadata: imaging_pb2.ImportImagesMetadata, index: int, status: status_pb2.Status
) -> None:
    if status.code == outlast.Code.OK:
        metadata.imported_count += 1
        return
    metadata.failed_count += 1
    if metadata.failed_count <= MAX_TOLD_FAILURES:
        metadata.failed_requests[index].CopyFrom(status)


def _shown(file_name: str) -> str:
    """Return a file's name as text: it may be any bytes, of which some are not."""
    return file_name.encode(errors="replace").decode()
