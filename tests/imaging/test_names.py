"""The names of resources."""

import pytest

import outlast
from outlast_imaging.names import (
    check_album,
    check_derivative,
    check_image,
    image_of_operation,
    images_of,
)

ILLEGAL_IDS = ["", ".", "..", ".hidden", "a/b", "a\0b", "ä", "a b", "-", "x" * 129]


def test_names_of_resources_are_accepted():
    assert check_album("") == ""
    assert check_album("albums/summer-2026") == "albums/summer-2026"
    assert check_image("images/7f~a") == "images/7f~a"
    assert check_image("albums/a/images/" + "x" * 128)
    assert check_derivative("images/1/derivatives/640x0-inside-q82.webp")
    assert check_derivative("albums/a/images/1/derivatives/b")


@pytest.mark.parametrize("illegal", ILLEGAL_IDS)
def test_names_that_could_lead_elsewhere_are_refused(illegal):
    for check, name in (
        (check_album, f"albums/{illegal}"),
        (check_image, f"images/{illegal}"),
        (check_image, f"albums/{illegal}/images/1"),
        (check_derivative, f"images/1/derivatives/{illegal}"),
        (check_derivative, f"images/{illegal}/derivatives/1"),
    ):
        with pytest.raises(outlast.InvalidArgumentError):
            check(name)


@pytest.mark.parametrize("name", ["", "images", "images/1/", "/images/1", "users/1/images/2"])
def test_names_of_something_else_are_refused(name):
    for check in (check_image, check_derivative):
        with pytest.raises(outlast.InvalidArgumentError):
            check(name)


def test_images_lie_beside_the_operations_that_make_them():
    assert image_of_operation("operations/17") == "images/17"
    assert image_of_operation("albums/a/operations/17") == "albums/a/images/17"
    assert images_of("") == "images"
    assert images_of("albums/a") == "albums/a/images"
