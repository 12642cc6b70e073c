"""Opening and decoding photographs, good and bad."""

import struct
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageChops, ImageCms, ImageStat

from outlast_imaging import decoding
from outlast_imaging.decoding import Header, decode, open_photo, read_header
from outlast_imaging.errors import UnusablePhotoError

FORMATS = ["JPEG", "PNG", "WEBP", "AVIF"]
TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def decoded(data, at_least=None):
    with open_photo(data) as photo:
        return decode(photo, at_least)


def header(data):
    with open_photo(data) as photo:
        return read_header(photo)


def difference(left, right):
    return max(ImageStat.Stat(ImageChops.difference(left, right)).mean)


@pytest.mark.parametrize("image_format", FORMATS)
def test_every_format_is_read_and_named_by_its_bytes(encode, scene, image_format):
    data = encode(scene, image_format)

    assert header(data) == Header(f"image/{image_format.lower()}", 240, 160)
    assert difference(decoded(data), scene) < 6


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("image_format", FORMATS)
def test_a_photo_that_was_taken_sideways_is_turned_upright(
    encode, scene, image_format, orientation
):
    turn = TURNS[orientation]
    stored = scene if turn is None else scene.transpose(turn)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encode(stored, image_format, exif=exif)

    assert (header(data).width, header(data).height) == scene.size
    assert difference(decoded(data), scene) < 6


def test_a_large_jpeg_is_decoded_smaller_but_never_below_what_is_needed(encode):
    data = encode(Image.effect_noise((1600, 1200), 64).convert("RGB"))

    width, height = decoded(data, at_least=(150, 100)).size

    assert 150 <= width < 1600
    assert 100 <= height < 1200


def test_a_sideways_jpeg_is_decoded_smaller_by_its_upright_size(encode):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    data = encode(Image.new("RGB", (1600, 400)), exif=exif)

    width, height = decoded(data, at_least=(50, 800)).size

    assert (width, height) == (400, 1600)


def test_a_jpeg_with_more_pictures_behind_it_is_a_jpeg(encode, scene):
    data = encode(scene, "MPO", save_all=True, append_images=[scene.rotate(180)])

    assert header(data).content_type == "image/jpeg"
    assert difference(decoded(data), scene) < 6


def test_of_an_animation_the_first_picture_counts(encode, scene):
    data = encode(scene, "PNG", save_all=True, append_images=[scene.rotate(180)])

    assert difference(decoded(data), scene) == 0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_becomes_rgb_or_rgba(encode, scene, mode):
    image = decoded(encode(scene.convert(mode), "PNG"))

    assert image.mode == ("RGBA" if mode in {"LA", "RGBA"} else "RGB")


def test_sixteen_bits_of_grey_are_scaled_and_not_clipped(encode):
    data = encode(Image.new("I;16", (8, 8), 0x8000), "PNG")

    assert decoded(data).getpixel((0, 0)) == (128, 128, 128)


def test_a_cmyk_jpeg_shows_its_colours(encode):
    data = encode(Image.new("RGB", (16, 16), (200, 40, 40)).convert("CMYK"))

    assert difference(decoded(data), Image.new("RGB", (16, 16), (200, 40, 40))) < 8


def test_transparency_of_a_palette_is_kept(encode):
    image = Image.new("P", (8, 8), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])

    assert decoded(encode(image, "PNG", transparency=0)).getpixel((0, 0)) == (255, 0, 0, 0)


def test_colours_are_brought_from_their_profile_to_srgb(encode):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exchanged = srgb.replace(b"rXYZ", b"?").replace(b"gXYZ", b"rXYZ").replace(b"?", b"gXYZ")
    red = Image.new("RGB", (8, 8), (255, 0, 0))

    assert decoded(encode(red, "PNG", icc_profile=srgb)).getpixel((0, 0)) == (255, 0, 0)
    assert decoded(encode(red, "PNG", icc_profile=exchanged)).getpixel((0, 0)) == (0, 255, 0)


def test_a_profile_that_is_none_says_nothing(encode, scene):
    data = encode(scene, "PNG", icc_profile=b"no profile")

    assert difference(decoded(data), scene) == 0


def test_exif_that_is_none_leaves_the_photo_usable(encode, scene):
    data = encode(scene, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")

    assert difference(decoded(data), scene) < 6


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_truncated_photo_is_broken(encode, image_format):
    data = encode(Image.effect_noise((300, 300), 90).convert("RGB"), image_format)

    for kept in (len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(UnusablePhotoError) as caught:
            decoded(data[:kept])
        assert caught.value.reason in {"BROKEN_PHOTO", "UNSUPPORTED_FORMAT"}


def test_no_bytes_are_no_photo():
    with pytest.raises(UnusablePhotoError) as caught:
        decoded(b"")
    assert caught.value.reason == "EMPTY_PHOTO"


def test_more_bytes_than_the_limit_are_not_looked_at(encode, scene, monkeypatch):
    data = encode(scene)
    monkeypatch.setattr(decoding, "MAX_PHOTO_BYTES", len(data) - 1)

    with pytest.raises(UnusablePhotoError) as caught:
        decoded(data)
    assert caught.value.reason == "PHOTO_TOO_LARGE"


@pytest.mark.parametrize("image_format", ["GIF", "BMP", "TIFF", "PPM", "ICO", "PDF"])
def test_other_formats_are_not_supported(encode, scene, image_format):
    with pytest.raises(UnusablePhotoError) as caught:
        decoded(encode(scene, image_format))
    assert caught.value.reason == "UNSUPPORTED_FORMAT"


@pytest.mark.parametrize("size", [(50_000, 50_000), (9_000, 9_000), (80_000_001, 1)])
def test_too_many_pixels_are_refused_by_the_header(png_that_says, size, monkeypatch):
    def load(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)

    with pytest.raises(UnusablePhotoError) as caught:
        decoded(png_that_says(*size))
    assert caught.value.reason == "TOO_MANY_PIXELS"


def test_a_jpeg_of_too_many_pixels_is_refused(encode, scene):
    data = bytearray(encode(scene))
    start_of_frame = data.index(b"\xff\xc0")
    data[start_of_frame + 5 : start_of_frame + 9] = struct.pack(">HH", 50_000, 50_000)

    with pytest.raises(UnusablePhotoError) as caught:
        decoded(bytes(data))
    assert caught.value.reason == "TOO_MANY_PIXELS"


def test_a_failure_of_the_machine_is_not_blamed_on_the_photo(encode, scene, monkeypatch):
    def load(*_):
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)

    with pytest.raises(MemoryError):
        decoded(encode(scene))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    image_format=st.sampled_from(FORMATS),
    damage=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4))
    ),
    kept=st.floats(0, 1),
)
def test_damage_makes_a_photo_unusable_or_nothing(encode, image_format, damage, kept):
    exif = Image.Exif()
    exif[ExifTags.Base.Model] = "A camera"
    data = bytearray(encode(Image.linear_gradient("L").resize((40, 30)), image_format, exif=exif))
    for place, replacement in damage:
        start = int(place * len(data))
        data[start : start + len(replacement)] = replacement

    with suppress(UnusablePhotoError):
        image = decoded(bytes(data[: int(kept * len(data)) or 1]))
        assert image.mode in {"RGB", "RGBA"}


def test_an_error_tells_nothing_of_the_inside(encode, scene):
    for data in (b"not a photo", encode(scene)[:900]):
        with pytest.raises(UnusablePhotoError) as caught:
            decoded(data)
        assert "0x" not in caught.value.message
        assert "IO" not in caught.value.message
