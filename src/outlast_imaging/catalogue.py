"""Keeps the images: a record beside the files of each, which is what makes it exist."""

import base64
import binascii
import hashlib
from collections.abc import Iterator
from typing import Final

from google.protobuf import json_format
from outlastapi.imaging.v1 import imaging_pb2

import outlast
from outlast_imaging.artifacts import ArtifactStore
from outlast_imaging.limits import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE
from outlast_imaging.names import images_of

_RECORD: Final = "image.json"
_DIGEST_BYTES: Final = 6


class Catalogue:
    """The images of an artifact store. It keeps nothing in memory; every method blocks."""

    def __init__(self, artifacts: ArtifactStore) -> None:
        self._artifacts = artifacts

    def publish(self, image: imaging_pb2.Image) -> imaging_pb2.Image:
        """Make an image exist and return it. To publish the same one again changes nothing."""
        record = json_format.MessageToJson(image, preserving_proto_field_name=True)
        self._artifacts.write(f"{image.name}/{_RECORD}", record.encode())
        return self.get(image.name)

    def get(self, name: str) -> imaging_pb2.Image:
        """Return an image; ServiceError NOT_FOUND."""
        try:
            record = self._artifacts.read(f"{name}/{_RECORD}")
        except FileNotFoundError:
            raise _not_found("image", name) from None
        image = json_format.Parse(record, imaging_pb2.Image())
        for derivative in image.derivatives:
            derivative.uri = self._artifacts.uri(derivative.name)
        return image

    def get_derivative(self, name: str) -> imaging_pb2.Derivative:
        """Return a derivative of an image; ServiceError NOT_FOUND."""
        for derivative in self.get(name.partition("/derivatives/")[0]).derivatives:
            if derivative.name == name:
                return derivative
        raise _not_found("derivative", name)

    def read_derivative(self, name: str, offset: int) -> Iterator[bytes]:
        """Yield the bytes of a derivative from an offset on, in chunks.

        Raises ServiceError NOT_FOUND if its file is gone, which a deletion meanwhile does.
        """
        try:
            yield from self._artifacts.read_chunks(name, offset)
        except FileNotFoundError:
            raise _not_found("derivative", name) from None

    def list_page(self, request: imaging_pb2.ListImagesRequest) -> imaging_pb2.ListImagesResponse:
        """Return a page of images, ordered by name; InvalidArgumentError."""
        after = _read_token(request)
        size = _page_size(request.page_size)
        collection = images_of(request.parent)
        ids = [each for each in self._artifacts.folders(collection) if each > after]
        page = imaging_pb2.ListImagesResponse()
        for image_id in ids:
            if len(page.images) == size:
                page.next_page_token = _token(request.parent, page.images[-1].name)
                break
            try:
                page.images.append(self.get(f"{collection}/{image_id}"))
            except outlast.ServiceError:
                continue  # not published yet, or just deleted
        return page

    def remove(self, name: str) -> None:
        """Make an image no longer exist, then remove its files. To do so again changes nothing."""
        self._artifacts.remove(f"{name}/{_RECORD}")
        self._artifacts.remove(name)

    def remove_unpublished(self, name: str) -> None:
        """Remove the files of an image that does not exist; one that does stays."""
        try:
            self.get(name)
        except outlast.ServiceError:
            self._artifacts.remove(name)


def _not_found(kind: str, name: str) -> outlast.ServiceError:
    return outlast.ServiceError(
        outlast.Code.NOT_FOUND,
        f"{kind} {name!r} not found",
        reason=f"{kind.upper()}_NOT_FOUND",
        metadata={"name": name},
    )


def _page_size(asked: int) -> int:
    if asked < 0:
        raise outlast.InvalidArgumentError("page_size", "must not be negative")
    return min(asked or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def _token(parent: str, name: str) -> str:
    """Return the token to go on after an image, bound to the parent."""
    last = name.rpartition("/")[2]
    return base64.urlsafe_b64encode(_digest(parent) + last.encode()).decode()


def _read_token(request: imaging_pb2.ListImagesRequest) -> str:
    """Return the id to go on after, empty to begin; InvalidArgumentError."""
    if not request.page_token:
        return ""
    try:
        token = base64.urlsafe_b64decode(request.page_token.encode())
        last = token[_DIGEST_BYTES:].decode()
    except (binascii.Error, UnicodeError):
        token, last = b"", ""
    if not last or token[:_DIGEST_BYTES] != _digest(request.parent):
        raise outlast.InvalidArgumentError(
            "page_token", "not a token that this server issued for this parent"
        )
    return last


def _digest(parent: str) -> bytes:
    return hashlib.sha256(parent.encode()).digest()[:_DIGEST_BYTES]
