"""Opens photographs that nobody vouches for."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageCms, UnidentifiedImageError

from outlast_imaging.errors import UnusablePhotoError
from outlast_imaging.exif import read_orientation
from outlast_imaging.limits import MAX_PHOTO_BYTES, MAX_PHOTO_PIXELS

CONTENT_TYPES: Final = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",  # a JPEG with more pictures behind it, as phones write them
    "PNG": "image/png",
    "WEBP": "image/webp",
    "AVIF": "image/avif",
}
"""The media types of what is read, by Pillow's names."""

_DECODERS: Final = ("JPEG", "PNG", "WEBP", "AVIF")
"""No other decoder is let near the bytes."""

SUFFIXES: Final = {
    "image/jpeg": (".jpg", ".jpeg"),
    "image/png": (".png",),
    "image/webp": (".webp",),
    "image/avif": (".avif",),
}
"""The suffixes of the files of a media type, the usual one first."""

_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FIRST_SIDEWAYS: Final = 5
_DRAFT_GAP: Final = 2
"""How much larger than needed a JPEG is decoded, so that resizing still smooths."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a photograph says about itself before it is decoded."""

    content_type: str
    width: int
    height: int
    """The size when it is held upright, in pixels."""


@contextmanager
def open_photo(data: bytes) -> Iterator[Image.Image]:
    """Open a photograph and check what its header says. Pixels are decoded later, on demand.

    Whatever a decoder raises within the block becomes UnusablePhotoError: it can be
    anything, and the bytes are the only input.
    """
    if not data:
        raise UnusablePhotoError("EMPTY_PHOTO", "the photograph has no bytes")
    if len(data) > MAX_PHOTO_BYTES:
        raise UnusablePhotoError(
            "PHOTO_TOO_LARGE",
            f"the photograph has {len(data)} bytes; the limit is {MAX_PHOTO_BYTES}",
        )
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(io.BytesIO(data), formats=_DECODERS) as photo,
        ):
            _check_pixels(photo.size)
            yield photo
    except (UnusablePhotoError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise _too_many_pixels("too many") from error
    except UnidentifiedImageError as error:
        raise UnusablePhotoError(
            "UNSUPPORTED_FORMAT", "the photograph is not a JPEG, PNG, WebP or AVIF that can be read"
        ) from error
    except Exception as error:
        raise UnusablePhotoError(
            "BROKEN_PHOTO", "the photograph is broken: it cannot be decoded to its end"
        ) from error


def read_header(photo: Image.Image) -> Header:
    """Return what the header of an opened photograph says. Call it before `decode`."""
    width, height = photo.size
    if read_orientation(photo) >= _FIRST_SIDEWAYS:
        width, height = height, width
    return Header(CONTENT_TYPES[photo.format or ""], width, height)


def decode(photo: Image.Image, at_least: tuple[int, int] | None = None) -> Image.Image:
    """Decode an opened photograph: upright, in sRGB, as RGB or (if anything shows through) RGBA.

    It may be smaller than the photograph, but not than `at_least` in either edge:
    a JPEG then decodes several times faster.
    """
    orientation = read_orientation(photo)
    if at_least is not None:
        width, height = at_least if orientation < _FIRST_SIDEWAYS else at_least[::-1]
        photo.draft(None, (width * _DRAFT_GAP, height * _DRAFT_GAP))
    image = _in_srgb(photo)
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _check_pixels(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PHOTO_PIXELS:
        raise _too_many_pixels(f"{width} by {height}")


def _too_many_pixels(how_many: str) -> UnusablePhotoError:
    return UnusablePhotoError(
        "TOO_MANY_PIXELS",
        f"the photograph has {how_many} pixels; the limit is {MAX_PHOTO_PIXELS} in all",
    )


def _in_srgb(photo: Image.Image) -> Image.Image:
    mode = "RGBA" if photo.has_transparency_data else "RGB"
    profile = photo.info.get("icc_profile")
    image: Image.Image = photo
    if image.mode.startswith("I;16"):
        # Pillow clips 16 bits to 8 instead of scaling them.
        image = image.point(lambda value: value / 256).convert("L")
    if profile and image.mode in {"L", "RGB", "RGBA", "CMYK"}:
        # A profile that is broken, or made for something else, says nothing.
        with suppress(ImageCms.PyCMSError, OSError):
            image = _through_profile(image, profile, mode)
    return image.convert(mode)


def _through_profile(image: Image.Image, profile: bytes, mode: str) -> Image.Image:
    converted = ImageCms.profileToProfile(
        image,
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        outputMode=mode,
    )
    if converted is None:
        raise ImageCms.PyCMSError("the conversion gave no image")
    return converted
