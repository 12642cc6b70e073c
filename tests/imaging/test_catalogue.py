"""The records of images."""

import base64

import pytest
from outlastapi.imaging.v1 import imaging_pb2

import outlast
from outlast_imaging.artifacts import ArtifactStore
from outlast_imaging.catalogue import Catalogue


@pytest.fixture
def artifacts(tmp_path):
    return ArtifactStore(str(tmp_path))


@pytest.fixture
def catalogue(artifacts):
    return Catalogue(artifacts)


def image(name):
    return imaging_pb2.Image(
        name=name,
        description=imaging_pb2.PhotoDescription(width=3, height=2, size_bytes=2**40),
        derivatives=[imaging_pb2.Derivative(name=f"{name}/derivatives/640x0-inside-q82.jpg")],
    )


def names(page):
    return [each.name for each in page.images]


def test_an_image_exists_once_it_is_published(catalogue, artifacts):
    with pytest.raises(outlast.ServiceError) as caught:
        catalogue.get("images/1")
    assert caught.value.status.code == outlast.Code.NOT_FOUND

    published = catalogue.publish(image("images/1"))

    assert published.description.size_bytes == 2**40
    assert Catalogue(artifacts).get("images/1") == published


def test_a_derivative_says_where_it_lies(catalogue, artifacts):
    published = catalogue.publish(image("albums/a/images/1"))

    name = "albums/a/images/1/derivatives/640x0-inside-q82.jpg"
    assert published.derivatives[0].uri == artifacts.uri(name)


def test_an_image_that_was_removed_is_gone_with_its_files(catalogue, artifacts):
    catalogue.publish(image("images/1"))
    artifacts.write("images/1/original.jpg", b"x")

    catalogue.remove("images/1")
    catalogue.remove("images/1")

    assert artifacts.folders("images") == []


def test_only_what_is_no_image_is_removed_as_unpublished(catalogue, artifacts):
    published = catalogue.publish(image("images/1"))
    artifacts.write("images/2/original.jpg", b"x")

    for name in ("images/1", "images/2", "images/3"):
        catalogue.remove_unpublished(name)

    assert artifacts.folders("images") == ["1"]
    assert catalogue.get("images/1") == published


def test_pages_hold_every_image_once_in_order(catalogue, artifacts):
    for each in range(7):
        catalogue.publish(image(f"images/{each}"))
    artifacts.write("images/3x/original.jpg", b"not published yet")
    request = imaging_pb2.ListImagesRequest(page_size=3)

    pages = []
    while not pages or request.page_token:
        page = catalogue.list_page(request)
        pages.append(names(page))
        request.page_token = page.next_page_token

    assert pages == [
        ["images/0", "images/1", "images/2"],
        ["images/3", "images/4", "images/5"],
        ["images/6"],
    ]


def test_a_last_page_that_is_full_has_no_token(catalogue):
    catalogue.publish(image("images/1"))

    assert not catalogue.list_page(imaging_pb2.ListImagesRequest(page_size=1)).next_page_token


def test_an_album_lists_its_own_images(catalogue):
    catalogue.publish(image("images/1"))
    catalogue.publish(image("albums/a/images/2"))
    catalogue.publish(image("albums/ab/images/3"))

    page = catalogue.list_page(imaging_pb2.ListImagesRequest(parent="albums/a"))

    assert names(page) == ["albums/a/images/2"]


def test_deletions_and_additions_between_pages_leave_the_order(catalogue):
    for each in "bdf":
        catalogue.publish(image(f"images/{each}"))
    first = catalogue.list_page(imaging_pb2.ListImagesRequest(page_size=2))
    catalogue.remove("images/d")
    catalogue.publish(image("images/a"))
    catalogue.publish(image("images/e"))

    second = catalogue.list_page(imaging_pb2.ListImagesRequest(page_token=first.next_page_token))

    assert names(first) == ["images/b", "images/d"]
    assert names(second) == ["images/e", "images/f"]


def test_a_negative_page_size_is_refused(catalogue):
    with pytest.raises(outlast.InvalidArgumentError) as caught:
        catalogue.list_page(imaging_pb2.ListImagesRequest(page_size=-1))
    assert caught.value.field == "page_size"


def test_a_token_serves_the_parent_that_it_was_issued_for(catalogue):
    for each in range(2):
        catalogue.publish(image(f"albums/a/images/{each}"))
    token = catalogue.list_page(
        imaging_pb2.ListImagesRequest(parent="albums/a", page_size=1)
    ).next_page_token

    for parent in ("", "albums/b"):
        with pytest.raises(outlast.InvalidArgumentError) as caught:
            catalogue.list_page(imaging_pb2.ListImagesRequest(parent=parent, page_token=token))
        assert caught.value.field == "page_token"


@pytest.mark.parametrize(
    "token", ["x", "ä", "====", base64.urlsafe_b64encode(b"\xff" * 20).decode(), "A" * 10_000]
)
def test_a_token_that_was_not_issued_is_refused(catalogue, token):
    with pytest.raises(outlast.InvalidArgumentError) as caught:
        catalogue.list_page(imaging_pb2.ListImagesRequest(page_token=token))
    assert caught.value.field == "page_token"
