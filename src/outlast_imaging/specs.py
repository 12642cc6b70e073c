"""What a derivative is to be, with every default filled in."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from outlastapi.imaging.v1 import imaging_pb2

import outlast
from outlast_imaging.limits import DEFAULT_QUALITY, MAX_DERIVATIVE_EDGE, MAX_DERIVATIVES

_Spec = imaging_pb2.DerivativeSpec
_MAX_QUALITY: Final = 100


@dataclass(frozen=True, slots=True)
class Encoding:
    """How Pillow and the rest of the world call a format."""

    pillow_format: str
    suffix: str
    content_type: str
    lossless: bool = False


ENCODINGS: Final = {
    _Spec.JPEG: Encoding("JPEG", ".jpg", "image/jpeg"),
    _Spec.WEBP: Encoding("WEBP", ".webp", "image/webp"),
    _Spec.PNG: Encoding("PNG", ".png", "image/png", lossless=True),
    _Spec.AVIF: Encoding("AVIF", ".avif", "image/avif"),
}
"""Every format that a derivative can have."""


def resolve_all(specs: Iterable[imaging_pb2.DerivativeSpec]) -> list[imaging_pb2.DerivativeSpec]:
    """Return specs with their defaults; InvalidArgumentError if one is wrong or comes twice."""
    resolved = [_resolve(spec, f"derivatives[{index}]") for index, spec in enumerate(specs)]
    if len(resolved) > MAX_DERIVATIVES:
        raise outlast.InvalidArgumentError("derivatives", f"more than {MAX_DERIVATIVES}")
    _check_distinct([derivative_id(spec) for spec in resolved])
    return resolved


def derivative_id(spec: imaging_pb2.DerivativeSpec) -> str:
    """Return what a derivative of a resolved spec is called, such as `640x0-inside-q82.webp`."""
    encoding = ENCODINGS[spec.format]
    fit = _Spec.Fit.Name(spec.fit).lower()
    quality = "" if encoding.lossless else f"-q{spec.quality}"
    return f"{spec.width}x{spec.height}-{fit}{quality}{encoding.suffix}"


def _resolve(spec: imaging_pb2.DerivativeSpec, field: str) -> imaging_pb2.DerivativeSpec:
    resolved = _Spec(
        width=spec.width,
        height=spec.height,
        fit=spec.fit or _Spec.INSIDE,
        format=spec.format or _Spec.JPEG,
    )
    if resolved.format not in ENCODINGS:
        raise outlast.InvalidArgumentError(f"{field}.format", f"unknown format {resolved.format}")
    if resolved.fit not in _Spec.Fit.values():
        raise outlast.InvalidArgumentError(f"{field}.fit", f"unknown fit {resolved.fit}")
    _check_size(resolved, field)
    resolved.quality = _quality(spec.quality, ENCODINGS[resolved.format], field)
    return resolved


def _check_size(spec: imaging_pb2.DerivativeSpec, field: str) -> None:
    for edge, value in (("width", spec.width), ("height", spec.height)):
        if not 0 <= value <= MAX_DERIVATIVE_EDGE:
            raise outlast.InvalidArgumentError(
                f"{field}.{edge}", f"must be from 0 to {MAX_DERIVATIVE_EDGE}"
            )
        if value == 0 and spec.fit != _Spec.INSIDE:
            raise outlast.InvalidArgumentError(f"{field}.{edge}", "required for COVER and EXACT")
    if spec.width == 0 and spec.height == 0:
        raise outlast.InvalidArgumentError(field, "needs a width, a height or both")


def _quality(quality: int, encoding: Encoding, field: str) -> int:
    if encoding.lossless:
        if quality:
            raise outlast.InvalidArgumentError(
                f"{field}.quality", f"{encoding.pillow_format} is lossless and takes none"
            )
        return 0
    if not 0 <= quality <= _MAX_QUALITY:
        raise outlast.InvalidArgumentError(
            f"{field}.quality", f"must be from 1 to {_MAX_QUALITY}, or 0 for {DEFAULT_QUALITY}"
        )
    return quality or DEFAULT_QUALITY


def _check_distinct(ids: Sequence[str]) -> None:
    for index, derivative in enumerate(ids):
        if derivative in ids[:index]:
            raise outlast.InvalidArgumentError(
                f"derivatives[{index}]", f"asks for {derivative} again"
            )
