"""Reads what a camera noted. Notes that make no sense are left out; the photograph stays usable."""

import math
import re
import struct
from collections.abc import Mapping
from typing import Final

from outlastapi.imaging.v1 import imaging_pb2
from PIL import ExifTags, Image

_DAMAGE: Final = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)
"""What Pillow raises over EXIF data that is not."""

_UPRIGHT: Final = 1
_ORIENTATIONS: Final = range(1, 9)
_MAX_TEXT_LENGTH: Final = 200
_MAX_ISO_SPEED: Final = 2**31 - 1
_TIME: Final = re.compile(r"(\d{4}):(\d\d):(\d\d) (\d\d:\d\d:\d\d)")
_OFFSET: Final = re.compile(r"[+-]\d\d:\d\d")


def read_orientation(photo: Image.Image) -> int:
    """Return how the sensor was held, from 1 (upright) to 8."""
    return _orientation(_tags(photo))


def read_exif(photo: Image.Image) -> imaging_pb2.ExifSummary | None:
    """Return what a camera noted; None if it noted nothing."""
    tags = _tags(photo)
    if not tags:
        return None
    return imaging_pb2.ExifSummary(
        make=_text(tags.get(ExifTags.Base.Make)),
        model=_text(tags.get(ExifTags.Base.Model)),
        lens=_text(tags.get(ExifTags.Base.LensModel)),
        capture_time=_capture_time(tags),
        orientation=_orientation(tags),
        exposure_seconds=_number(tags.get(ExifTags.Base.ExposureTime)),
        f_number=_number(tags.get(ExifTags.Base.FNumber)),
        iso_speed=_iso_speed(tags.get(ExifTags.Base.ISOSpeedRatings)),
        focal_length_mm=_number(tags.get(ExifTags.Base.FocalLength)),
        artist=_text(tags.get(ExifTags.Base.Artist)),
        copyright=_text(tags.get(ExifTags.Base.Copyright)),
    )


def _tags(photo: Image.Image) -> Mapping[int, object]:
    try:
        exif = photo.getexif()
        return {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}
    except _DAMAGE:
        return {}


def _orientation(tags: Mapping[int, object]) -> int:
    value = tags.get(ExifTags.Base.Orientation)
    return value if isinstance(value, int) and value in _ORIENTATIONS else _UPRIGHT


def _text(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return ""
    printable = "".join(character for character in value if character.isprintable())
    return printable.strip()[:_MAX_TEXT_LENGTH]


def _number(value: object) -> float:
    """Return a number that is finite and positive, else 0."""
    try:
        number = float(value)  # type: ignore[arg-type]  # anything may stand there
    except _DAMAGE:
        return 0.0
    return number if math.isfinite(number) and number > 0 else 0.0


def _iso_speed(value: object) -> int:
    """Return a speed. Cameras note one, or one for each way to measure it."""
    if isinstance(value, tuple) and value:
        value = value[0]
    return min(int(_number(value)), _MAX_ISO_SPEED)


def _capture_time(tags: Mapping[int, object]) -> str:
    noted = _TIME.fullmatch(_text(tags.get(ExifTags.Base.DateTimeOriginal)))
    if noted is None:
        return ""
    year, month, day, time = noted.groups()
    offset = _text(tags.get(ExifTags.Base.OffsetTimeOriginal))
    return f"{year}-{month}-{day}T{time}{offset if _OFFSET.fullmatch(offset) else ''}"
