"""Why a photograph is not processed.

The classes carry nothing but text, so that they travel from a worker process to
the server.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import outlast


class ImagingError(Exception):
    """Something that will not be processed, however often it is tried.

    `reason` is stable and for programs, `message` is for people.
    """

    code: ClassVar[outlast.Code]

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message


class UnusablePhotoError(ImagingError):
    """The bytes are not a photograph that can be processed."""

    code = outlast.Code.INVALID_ARGUMENT


class InvalidSourceError(ImagingError):
    """The source is not one that any server could read."""

    code = outlast.Code.INVALID_ARGUMENT


class SourceRefusedError(ImagingError):
    """The source is not one that this server may read for a caller."""

    code = outlast.Code.PERMISSION_DENIED


class SourceMissingError(ImagingError):
    """There is no such file or folder."""

    code = outlast.Code.NOT_FOUND


class PhotoAbandonedError(ImagingError):
    """Nobody knows what is wrong with the photograph; it was tried often enough."""

    code = outlast.Code.UNAVAILABLE


@contextmanager
def ending_the_operation() -> Iterator[None]:
    """Turn an ImagingError into the end of the operation, which is not retried."""
    try:
        yield
    except ImagingError as error:
        raise outlast.OperationFailed(error.code, error.message, reason=error.reason) from error


@contextmanager
def refusing_the_request() -> Iterator[None]:
    """Turn an ImagingError into an error of the RPC."""
    try:
        yield
    except InvalidSourceError as error:
        raise outlast.InvalidArgumentError("uri", error.message) from error
    except ImagingError as error:
        raise outlast.ServiceError(error.code, error.message, reason=error.reason) from error
