"""Derivatives."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outlastapi.imaging.v1.imaging_pb2 import DerivativeSpec
from PIL import ExifTags, Image

from outlast_imaging.rendering import place, render
from outlast_imaging.specs import ENCODINGS

edges = st.integers(1, 20_000)
limits = st.integers(1, 8192)


def spec(width=0, height=0, fit=DerivativeSpec.INSIDE, image_format=DerivativeSpec.JPEG):
    return DerivativeSpec(width=width, height=height, fit=fit, format=image_format, quality=82)


def opened(rendering):
    return Image.open(io.BytesIO(rendering.data))


@given(st.tuples(edges, edges), limits, limits)
def test_inside_stays_in_the_box_and_keeps_the_proportions(size, width, height):
    placement = place(size, spec(width, height))

    assert placement.box == (0, 0, *size)
    assert 1 <= placement.size[0] <= min(width, size[0])
    assert 1 <= placement.size[1] <= min(height, size[1])
    scale = min(1, width / size[0], height / size[1])
    assert placement.size[0] == pytest.approx(size[0] * scale, abs=1)
    assert placement.size[1] == pytest.approx(size[1] * scale, abs=1)


@given(st.tuples(edges, edges), limits)
def test_an_edge_of_zero_does_not_limit(size, limit):
    assert place(size, spec(width=limit)).size[0] == min(limit, size[0])
    assert place(size, spec(height=limit)).size[1] == min(limit, size[1])


@given(st.tuples(edges, edges), limits, limits)
def test_cover_fills_the_box_from_the_middle_without_distortion(size, width, height):
    placement = place(size, spec(width, height, DerivativeSpec.COVER))
    left, top, right, bottom = placement.box

    assert placement.size == (width, height)
    assert 0 <= left < right <= size[0] * (1 + 1e-9)
    assert 0 <= top < bottom <= size[1] * (1 + 1e-9)
    assert left + right == pytest.approx(size[0])
    assert top + bottom == pytest.approx(size[1])
    assert (right - left) / (bottom - top) == pytest.approx(width / height)
    assert left == pytest.approx(0, abs=1e-6) or top == pytest.approx(0, abs=1e-6)


@given(st.tuples(edges, edges), limits, limits)
def test_exact_takes_everything_to_the_size_of_the_box(size, width, height):
    placement = place(size, spec(width, height, DerivativeSpec.EXACT))

    assert placement.box == (0, 0, *size)
    assert placement.size == (width, height)


@pytest.mark.parametrize("image_format", ENCODINGS)
def test_every_format_is_written(encode, scene, image_format):
    rendering = render(encode(scene, "PNG"), spec(60, 60, image_format=image_format))

    image = opened(rendering)
    assert image.format == ENCODINGS[image_format].pillow_format
    assert image.size == (rendering.width, rendering.height) == (60, 40)


@pytest.mark.parametrize("image_format", ENCODINGS)
def test_the_same_request_gives_the_same_bytes(encode, scene, image_format):
    data = encode(scene)

    assert render(data, spec(120, image_format=image_format)) == render(
        data, spec(120, image_format=image_format)
    )


def test_a_higher_quality_takes_more_bytes(encode, scene):
    data = encode(scene, "PNG")
    low, high = spec(200), spec(200)
    low.quality, high.quality = 30, 95

    assert len(render(data, low).data) < len(render(data, high).data)


def test_a_derivative_shows_what_the_photo_shows(encode, scene):
    image = opened(render(encode(scene.resize((2400, 1600))), spec(120))).convert("RGB")

    corners = [image.getpixel(at) for at in ((5, 5), (115, 5), (5, 75), (115, 75))]
    for corner, color in zip(
        corners, [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)], strict=True
    ):
        assert corner == pytest.approx(color, abs=40)


def test_cover_crops_the_sides_evenly(encode):
    image = Image.new("RGB", (300, 100), "white")
    image.paste("red", (0, 0, 100, 100))
    image.paste("blue", (200, 0, 300, 100))

    cropped = opened(
        render(encode(image, "PNG"), spec(50, 50, DerivativeSpec.COVER, DerivativeSpec.PNG))
    )

    assert cropped.getpixel((25, 25)) == (255, 255, 255)
    assert cropped.getpixel((3, 25)) == cropped.getpixel((46, 25)) == (255, 255, 255)


def test_a_sideways_photo_gives_an_upright_derivative_without_its_notes(encode, scene):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Artist] = "Somebody"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    data = encode(scene.transpose(Image.Transpose.ROTATE_90), exif=exif)

    image = opened(render(data, spec(120)))

    assert image.size == (120, 80)
    assert not image.getexif()
    assert image.getpixel((5, 5)) == pytest.approx((255, 0, 0), abs=40)


def test_transparency_is_kept_or_becomes_white(encode):
    data = encode(Image.new("RGBA", (20, 20), (255, 0, 0, 0)), "PNG")

    kept = opened(render(data, spec(10, image_format=DerivativeSpec.PNG)))
    flattened = opened(render(data, spec(10)))

    assert kept.getpixel((5, 5))[3] == 0
    assert flattened.getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (1, 5000)])
def test_no_edge_vanishes(encode, size):
    rendering = render(encode(Image.new("RGB", size), "PNG"), spec(10, 10))

    assert min(rendering.width, rendering.height) == 1
