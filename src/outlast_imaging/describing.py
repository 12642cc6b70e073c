"""Says what a photograph shows, in numbers."""

import hashlib
from collections.abc import Sequence
from typing import Final

from outlastapi.imaging.v1 import imaging_pb2
from PIL import Image

from outlast_imaging.decoding import decode, open_photo, read_header
from outlast_imaging.exif import read_exif

_MAX_COLORS: Final = 5
_COLOR_SAMPLE: Final = (96, 96)
"""Colours are counted on this many pixels; more change nothing that one sees."""

_HASH_WIDTH, _HASH_HEIGHT = 8, 8
_DECODED_SIZE: Final = (256, 256)


def describe(data: bytes) -> imaging_pb2.PhotoDescription:
    """Describe a photograph. It is decoded to its end; UnusablePhotoError if that fails."""
    with open_photo(data) as photo:
        header = read_header(photo)
        exif = read_exif(photo)
        image = on_white(decode(photo, at_least=_DECODED_SIZE))
    return imaging_pb2.PhotoDescription(
        width=header.width,
        height=header.height,
        content_type=header.content_type,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        exif=exif,
        dominant_colors=dominant_colors(image),
        perceptual_hash=perceptual_hash(image),
    )


def on_white(image: Image.Image) -> Image.Image:
    """Return an image as RGB, with white where it is transparent."""
    if image.mode == "RGB":
        return image
    ground = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")


def dominant_colors(image: Image.Image) -> Sequence[imaging_pb2.DominantColor]:
    """Return the few colours that stand for an RGB image, the largest share first."""
    sample = image.copy()
    sample.thumbnail(_COLOR_SAMPLE, Image.Resampling.BOX, reducing_gap=None)
    indexed = sample.quantize(_MAX_COLORS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    palette = indexed.getpalette() or []
    pixels = sample.width * sample.height
    shares = [
        (count / pixels, bytes(palette[3 * index : 3 * index + 3]).hex())
        for index, count in enumerate(indexed.histogram())
        if count
    ]
    shares.sort(key=lambda entry: (-entry[0], entry[1]))
    return [imaging_pb2.DominantColor(hex=f"#{color}", share=share) for share, color in shares]


def perceptual_hash(image: Image.Image) -> str:
    """Return the difference hash of an RGB image: 64 bits as 16 hexadecimal digits.

    Each bit says whether one of 8 by 8 cells is brighter than its right neighbour.
    """
    size = (_HASH_WIDTH + 1, _HASH_HEIGHT)
    cells = image.convert("L").resize(size, Image.Resampling.BOX).tobytes()
    bits = 0
    for row in range(_HASH_HEIGHT):
        start = row * (_HASH_WIDTH + 1)
        for left in range(start, start + _HASH_WIDTH):
            bits = bits << 1 | (cells[left] > cells[left + 1])
    return f"{bits:0{_HASH_WIDTH * _HASH_HEIGHT // 4}x}"
