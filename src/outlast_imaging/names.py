"""The names of albums, images and derivatives (AIP-122).

An artifact is stored under the name of its resource, so whatever passes here is safe
as a path as well: no segment begins with a dot, and none holds a slash.
"""

import re

import outlast
from outlast_imaging.limits import MAX_ID_LENGTH

_ID = rf"[A-Za-z0-9][A-Za-z0-9._~-]{{0,{MAX_ID_LENGTH - 1}}}"
_ALBUM = re.compile(rf"albums/{_ID}")
_IMAGE = re.compile(rf"(?P<parent>albums/{_ID}/)?images/{_ID}")
_DERIVATIVE = re.compile(rf"(?P<image>(?:albums/{_ID}/)?images/{_ID})/derivatives/(?P<id>{_ID})")


def check_album(parent: str) -> str:
    """Return the name of an album, or empty for none; InvalidArgumentError."""
    if parent and _ALBUM.fullmatch(parent) is None:
        raise outlast.InvalidArgumentError("parent", "must be empty or albums/{album}")
    return parent


def check_image(name: str) -> str:
    """Return the name of an image; InvalidArgumentError."""
    if _IMAGE.fullmatch(name) is None:
        raise outlast.InvalidArgumentError(
            "name", "must be images/{image} or albums/{album}/images/{image}"
        )
    return name


def check_derivative(name: str) -> str:
    """Return the name of a derivative; InvalidArgumentError."""
    if _DERIVATIVE.fullmatch(name) is None:
        raise outlast.InvalidArgumentError(
            "name",
            "must be images/{image}/derivatives/{derivative}, or the same below albums/{album}",
        )
    return name


def images_of(parent: str) -> str:
    """Return the collection of an album's images, or of those outside of albums."""
    return f"{parent}/images" if parent else "images"


def image_of_operation(operation: str) -> str:
    """Return the name of the image that an operation makes.

    It follows from the operation's name alone, so that another attempt makes no
    other image.
    """
    parent, _, operation_id = operation.rpartition("operations/")
    return f"{parent}images/{operation_id}"
