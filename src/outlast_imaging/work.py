"""What the operations do, as functions that run in a process of their own.

Arguments and results are small; the bytes go between the store and this process.
Whatever is written is decided by its name, so that each may run again.
"""

import hashlib
from collections.abc import Iterable

from google.rpc import error_details_pb2, status_pb2
from outlastapi.imaging.v1 import imaging_pb2

from outlast_imaging.artifacts import ArtifactStore
from outlast_imaging.catalogue import Catalogue
from outlast_imaging.decoding import SUFFIXES
from outlast_imaging.describing import describe
from outlast_imaging.errors import ImagingError
from outlast_imaging.limits import MAX_TOLD_NAME_BYTES
from outlast_imaging.rendering import render
from outlast_imaging.sources import Location, read_photo
from outlast_imaging.specs import ENCODINGS, derivative_id

_ERROR_DOMAIN = "outlastapi"


def take_photo(store: str, image: str, source: bytes | Location) -> imaging_pb2.PhotoDescription:
    """Describe a photograph and keep its original; ImagingError, and then nothing is kept."""
    data = source if isinstance(source, bytes) else read_photo(source)
    description = describe(data)
    ArtifactStore(store).write(original(image, description), data)
    return description


def make_derivative(
    store: str,
    image: str,
    description: imaging_pb2.PhotoDescription,
    spec: imaging_pb2.DerivativeSpec,
) -> imaging_pb2.Derivative:
    """Make the derivative of a kept photograph that a resolved spec asks for."""
    artifacts = ArtifactStore(store)
    rendering = render(artifacts.read(original(image, description)), spec)
    name = f"{image}/derivatives/{derivative_id(spec)}"
    artifacts.write(name, rendering.data)
    return imaging_pb2.Derivative(
        name=name,
        spec=spec,
        width=rendering.width,
        height=rendering.height,
        content_type=ENCODINGS[spec.format].content_type,
        size_bytes=len(rendering.data),
        sha256=hashlib.sha256(rendering.data).hexdigest(),
    )


def import_photo(
    store: str, image: str, photo: Location, specs: Iterable[imaging_pb2.DerivativeSpec]
) -> status_pb2.Status:
    """Process a photograph as a whole; return why it failed, or a status of code OK."""
    try:
        description = take_photo(store, image, photo)
        derivatives = [make_derivative(store, image, description, spec) for spec in specs]
    except ImagingError as error:
        return failed_photo(error, photo)
    Catalogue(ArtifactStore(store)).publish(
        imaging_pb2.Image(name=image, description=description, derivatives=derivatives)
    )
    return status_pb2.Status()


def failed_photo(error: ImagingError, photo: Location) -> status_pb2.Status:
    """Say why a photograph of a folder failed, and which."""
    # A file's name may be bytes that are no text, and hundreds may be told at once.
    name = photo.names[-1].encode(errors="replace")[:MAX_TOLD_NAME_BYTES].decode(errors="ignore")
    status = status_pb2.Status(code=error.code, message=error.message)
    info = error_details_pb2.ErrorInfo(
        reason=error.reason, domain=_ERROR_DOMAIN, metadata={"photo": name}
    )
    status.details.add().Pack(info)
    return status


def original(image: str, description: imaging_pb2.PhotoDescription) -> str:
    """Return the name of the file that a photograph is kept in as it came."""
    return f"{image}/original{SUFFIXES[description.content_type][0]}"
