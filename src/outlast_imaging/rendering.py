"""Makes derivatives."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from outlastapi.imaging.v1 import imaging_pb2
from PIL import Image

from outlast_imaging.decoding import decode, open_photo, read_header
from outlast_imaging.describing import on_white
from outlast_imaging.specs import ENCODINGS

_Spec = imaging_pb2.DerivativeSpec
_REDUCING_GAP: Final = 3.0
"""A much larger image is first shrunk by whole numbers, to this multiple of the target."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """A derivative: its bytes and its size in pixels."""

    data: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Placement:
    """Which part of an image to take (left, top, right, bottom), and the size to bring it to."""

    box: tuple[float, float, float, float]
    size: tuple[int, int]


def render(data: bytes, spec: imaging_pb2.DerivativeSpec) -> Rendering:
    """Make the derivative that a resolved spec asks for; UnusablePhotoError.

    The same photograph, spec and version of Pillow give the same bytes.
    """
    with open_photo(data) as photo:
        header = read_header(photo)
        target = place((header.width, header.height), spec).size
        image = decode(photo, at_least=target)
    # A JPEG may have been decoded smaller: the part to take is one of this image.
    box = place(image.size, spec).box
    resized = image.resize(target, Image.Resampling.LANCZOS, box=box, reducing_gap=_REDUCING_GAP)
    return Rendering(_encode(resized, spec), *target)


def place(size: tuple[int, int], spec: imaging_pb2.DerivativeSpec) -> Placement:
    """Return how an image of a size comes into the box of a resolved spec."""
    width, height = size
    if spec.fit == _Spec.INSIDE:
        limits = [
            limit / edge
            for limit, edge in zip((spec.width, spec.height), size, strict=True)
            if limit
        ]
        scale = min(1.0, *limits)
        return Placement(
            (0, 0, width, height), (max(1, round(width * scale)), max(1, round(height * scale)))
        )
    target = (spec.width, spec.height)
    if spec.fit == _Spec.EXACT:
        return Placement((0, 0, width, height), target)
    scale = max(spec.width / width, spec.height / height)
    kept_width = min(float(width), spec.width / scale)
    kept_height = min(float(height), spec.height / scale)
    left, top = (width - kept_width) / 2, (height - kept_height) / 2
    return Placement((left, top, left + kept_width, top + kept_height), target)


def _encode(image: Image.Image, spec: imaging_pb2.DerivativeSpec) -> bytes:
    encoding = ENCODINGS[spec.format]
    encoded = io.BytesIO()
    opaque = on_white(image) if spec.format == _Spec.JPEG else image
    opaque.save(encoded, encoding.pillow_format, **_options(spec))
    return encoded.getvalue()


def _options(spec: imaging_pb2.DerivativeSpec) -> Mapping[str, Any]:
    match spec.format:
        case _Spec.JPEG:
            return {"quality": spec.quality, "optimize": True, "progressive": True}
        case _Spec.PNG:
            return {"optimize": True}
        case _:
            return {"quality": spec.quality}
