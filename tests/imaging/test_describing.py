"""What is said about photographs."""

import hashlib

import pytest
from PIL import ExifTags, Image, ImageEnhance

from outlast_imaging.describing import describe, dominant_colors, perceptual_hash
from outlast_imaging.errors import UnusablePhotoError


def distance(left, right):
    return (int(left, 16) ^ int(right, 16)).bit_count()


def camera_notes():
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker\0"
    exif[ExifTags.Base.Model] = "  Model 1 "
    exif[ExifTags.Base.Artist] = "An artist"
    exif[ExifTags.Base.Copyright] = "All theirs"
    exif[ExifTags.Base.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.Exif).update(
        {
            ExifTags.Base.LensModel: "35 mm",
            ExifTags.Base.DateTimeOriginal: "2026:05:04 12:30:00",
            ExifTags.Base.OffsetTimeOriginal: "+02:00",
            ExifTags.Base.ExposureTime: 0.008,
            ExifTags.Base.FNumber: 2.8,
            ExifTags.Base.ISOSpeedRatings: 400,
            ExifTags.Base.FocalLength: 35.0,
        }
    )
    return exif


def test_a_photo_is_described_as_it_was_sent_and_as_it_is_held(encode, scene):
    data = encode(scene, exif=camera_notes())

    description = describe(data)

    assert (description.width, description.height) == (160, 240)
    assert description.content_type == "image/jpeg"
    assert description.size_bytes == len(data)
    assert description.sha256 == hashlib.sha256(data).hexdigest()
    assert len(description.perceptual_hash) == 16
    assert 1 <= len(description.dominant_colors) <= 5


def test_what_the_camera_noted_is_told(encode, scene):
    exif = describe(encode(scene, exif=camera_notes())).exif

    assert (exif.make, exif.model, exif.lens) == ("Maker", "Model 1", "35 mm")
    assert exif.capture_time == "2026-05-04T12:30:00+02:00"
    assert exif.orientation == 6
    assert exif.exposure_seconds == pytest.approx(0.008)
    assert exif.f_number == pytest.approx(2.8)
    assert exif.iso_speed == 400
    assert exif.focal_length_mm == 35
    assert (exif.artist, exif.copyright) == ("An artist", "All theirs")


def test_a_photo_without_notes_has_no_exif(encode, scene):
    assert not describe(encode(scene)).HasField("exif")


def test_notes_that_make_no_sense_are_left_out(encode, scene):
    exif = Image.Exif()
    exif[ExifTags.Base.Model] = b"\xff\xfe\x00\x01"
    exif[ExifTags.Base.Orientation] = 77
    exif.get_ifd(ExifTags.IFD.Exif).update(
        {
            ExifTags.Base.DateTimeOriginal: "yesterday",
            ExifTags.Base.ExposureTime: (1, 0),
            ExifTags.Base.FNumber: "wide",
            ExifTags.Base.ISOSpeedRatings: (800, 100),
        }
    )

    exif = describe(encode(scene, exif=exif)).exif

    assert exif.orientation == 1
    assert exif.capture_time == ""
    assert exif.exposure_seconds == 0
    assert exif.f_number == 0
    assert exif.iso_speed == 800


@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 40}),
        ("PNG", {}),
        ("WEBP", {"quality": 60}),
        ("AVIF", {"quality": 60}),
    ],
)
@pytest.mark.parametrize("scale", [1, 2, 5])
def test_the_hash_hardly_changes_with_size_and_encoding(
    encode, scene, image_format, options, scale
):
    resized = scene.resize((scene.width * scale, scene.height * scale), Image.Resampling.BICUBIC)

    hashed = describe(encode(resized, image_format, **options)).perceptual_hash

    assert distance(hashed, perceptual_hash(scene)) <= 6


def test_the_hash_hardly_changes_with_the_light(scene):
    darker = ImageEnhance.Brightness(scene).enhance(0.8)

    assert distance(perceptual_hash(darker), perceptual_hash(scene)) <= 6


def test_other_photos_have_other_hashes(scene):
    assert distance(perceptual_hash(scene.rotate(180)), perceptual_hash(scene)) > 16


def test_the_same_photo_is_described_the_same(encode, scene):
    data = encode(scene, "WEBP")

    assert describe(data) == describe(data)


def test_the_dominant_colours_are_those_of_the_photo_by_their_share():
    image = Image.new("RGB", (96, 96), "#ff0000")
    image.paste("#0000ff", (0, 0, 96, 32))
    image.paste("#00ff00", (0, 0, 96, 8))

    colors = {color.hex: color.share for color in dominant_colors(image)}

    assert [*colors] == ["#ff0000", "#0000ff", "#00ff00"]
    assert [*colors.values()] == pytest.approx([64 / 96, 24 / 96, 8 / 96])


def test_the_shares_of_the_colours_make_up_the_whole(scene):
    colors = dominant_colors(scene)

    assert 1 < len(colors) <= 5
    assert sum(color.share for color in colors) == pytest.approx(1)
    assert [color.share for color in colors] == sorted((c.share for c in colors), reverse=True)


@pytest.mark.parametrize("size", [(1, 1), (3000, 1), (1, 3000)])
def test_a_photo_of_any_shape_can_be_described(encode, size):
    description = describe(encode(Image.new("RGB", size, "teal"), "PNG"))

    assert (description.width, description.height) == size
    assert description.dominant_colors[0].hex == "#008080"


def test_what_is_transparent_counts_as_white(encode):
    data = encode(Image.new("RGBA", (16, 16), (255, 0, 0, 0)), "PNG")

    assert [color.hex for color in describe(data).dominant_colors] == ["#ffffff"]


def test_a_photo_that_ends_early_is_not_described(encode, scene):
    data = encode(scene)

    with pytest.raises(UnusablePhotoError):
        describe(data[: len(data) // 2])
