"""Photographs made for a test."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

Encode = Callable[..., bytes]


@pytest.fixture(scope="session")
def encode() -> Encode:
    """Encode an image, as JPEG if nothing else is said."""

    def encode(image: Image.Image, image_format: str = "JPEG", **options: Any) -> bytes:
        encoded = io.BytesIO()
        image.save(encoded, image_format, **options)
        return encoded.getvalue()

    return encode


@pytest.fixture(scope="session")
def scene() -> Image.Image:
    """An image of 240 by 160 with large shapes that differ in all four corners."""
    image = Image.radial_gradient("L").resize((240, 160)).convert("RGB")
    image.paste("red", (0, 0, 90, 50))
    image.paste("lime", (180, 0, 240, 70))
    image.paste("blue", (0, 120, 70, 160))
    image.paste("yellow", (170, 110, 240, 160))
    return image
