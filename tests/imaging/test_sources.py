"""Files of the server, and how none of them is read that must not be."""

import os
import socket
from pathlib import Path

import pytest

from outlast_imaging import sources
from outlast_imaging.errors import (
    InvalidSourceError,
    SourceMissingError,
    SourceRefusedError,
    UnusablePhotoError,
)
from outlast_imaging.sources import SourceFolder, list_photos, read_photo


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "root with ä space"
    (root / "inside").mkdir(parents=True)
    (root / "photo.jpg").write_bytes(b"photo")
    (root / "inside" / "photo.jpg").write_bytes(b"inner photo")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    return root


def open_descriptors():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def read(root, uri):
    return read_photo(SourceFolder(root).locate(uri))


def test_a_file_below_the_root_is_read(root):
    assert read(root, (root / "photo.jpg").as_uri()) == b"photo"
    assert read(root, (root / "inside" / "photo.jpg").as_uri()) == b"inner photo"
    assert read(root, (root / "photo.jpg").as_uri().replace("//", "//localhost", 1)) == b"photo"


def test_a_name_that_is_no_text_is_read(root):
    name = os.fsdecode(b"caf\xe9.jpg")
    (root / name).write_bytes(b"photo")

    assert read(root, root.as_uri() + "/caf%E9.jpg") == b"photo"
    assert name in list_photos(SourceFolder(root).locate(root.as_uri()))


def test_the_root_may_be_a_link_and_be_called_by_both_names(root, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(root)

    assert read(link, link.as_uri() + "/photo.jpg") == b"photo"
    assert read(link, root.as_uri() + "/photo.jpg") == b"photo"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "photo.jpg",
        "/photo.jpg",
        "http://localhost/photo.jpg",
        "file://elsewhere/photo.jpg",
        "file:photo.jpg",
        "file:///photo.jpg?x=1",
        "file:///photo.jpg#x",
        "file:///photo%00.jpg",
        "file://[/photo.jpg",
    ],
)
def test_what_is_no_file_uri_is_invalid(root, uri):
    with pytest.raises(InvalidSourceError) as caught:
        SourceFolder(root).locate(uri)
    assert caught.value.reason == "INVALID_URI"


@pytest.mark.parametrize(
    "path",
    ["/../secret.jpg", "/inside/../../secret.jpg", "/%2e%2e/secret.jpg", "/..%2fsecret.jpg"],
)
def test_no_dots_lead_outside(root, path):
    with pytest.raises(SourceRefusedError) as caught:
        SourceFolder(root).locate(root.as_uri() + path)
    assert caught.value.reason == "OUTSIDE_ROOT"


def test_outside_the_root_the_answer_tells_nothing_about_what_exists(root, tmp_path):
    answers = set()
    for path in ("secret.jpg", "missing.jpg", "root with ä space suffix/photo.jpg"):
        with pytest.raises(SourceRefusedError) as caught:
            SourceFolder(root).locate((tmp_path / path).as_uri())
        answers.add((caught.value.reason, caught.value.message))
    assert len(answers) == 1


def test_without_a_root_no_file_is_read(root):
    with pytest.raises(SourceRefusedError) as caught:
        SourceFolder(None).locate((root / "photo.jpg").as_uri())
    assert caught.value.reason == "FILES_NOT_SERVED"


def test_no_link_is_followed(root, tmp_path):
    (root / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "own.jpg").symlink_to(root / "photo.jpg")
    (root / "up").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")

    for name in ("link.jpg", "own.jpg", "up/secret.jpg", "loop", "loop/photo.jpg"):
        with pytest.raises(SourceRefusedError):
            read(root, f"{root.as_uri()}/{name}")


def test_a_file_that_became_a_link_after_the_look_is_not_followed(root, tmp_path, monkeypatch):
    location = SourceFolder(root).locate((root / "photo.jpg").as_uri())
    look = os.stat

    def look_then_exchange(name, **options):
        status = look(name, **options)
        (root / "photo.jpg").unlink()
        (root / "photo.jpg").symlink_to(tmp_path / "secret.jpg")
        return status

    monkeypatch.setattr(sources.os, "stat", look_then_exchange)

    with pytest.raises(SourceRefusedError):
        read_photo(location)


def test_what_is_no_regular_file_is_refused_at_once(root, monkeypatch):
    os.mkfifo(root / "pipe.jpg")
    monkeypatch.chdir(root)  # A socket's address has room for a short path only.
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.jpg")

        for name in ("pipe.jpg", "socket.jpg", "inside", ""):
            with pytest.raises(SourceRefusedError):
                read(root, f"{root.as_uri()}/{name}")


def test_a_device_is_refused():
    with pytest.raises(SourceRefusedError):
        read(Path("/dev"), "file:///dev/zero")


def test_a_file_that_is_not_there_is_missing(root):
    for name in ("missing.jpg", "missing/photo.jpg"):
        with pytest.raises(SourceMissingError):
            read(root, f"{root.as_uri()}/{name}")


def test_a_path_through_a_file_is_refused(root):
    with pytest.raises(SourceRefusedError):
        read(root, root.as_uri() + "/photo.jpg/more.jpg")


def test_a_name_that_no_file_can_have_is_missing_or_refused(root):
    with pytest.raises((SourceMissingError, SourceRefusedError)):
        read(root, f"{root.as_uri()}/{'x' * 300}")


def test_a_file_over_the_limit_is_refused(root, monkeypatch):
    monkeypatch.setattr(sources, "MAX_PHOTO_BYTES", 4)

    with pytest.raises(UnusablePhotoError) as caught:
        read(root, (root / "photo.jpg").as_uri())
    assert caught.value.reason == "PHOTO_TOO_LARGE"


def test_no_descriptor_stays_open(root):
    (root / "link").symlink_to("/")
    before = open_descriptors()

    for name in ("photo.jpg", "inside/photo.jpg", "missing", "link/x", "inside"):
        try:
            read(root, f"{root.as_uri()}/{name}")
        except (SourceMissingError, SourceRefusedError):
            continue

    assert open_descriptors() == before


def test_the_photos_of_a_folder_are_listed_by_name(root):
    for name in ("b.PNG", "a.webp", "c.avif", "notes.txt", ".hidden.jpg", "jpg"):
        (root / name).write_bytes(b"")
    (root / "folder.jpg").mkdir()
    (root / "link.jpeg").symlink_to("photo.jpg")
    location = SourceFolder(root).locate(root.as_uri())

    assert list_photos(location) == ["a.webp", "b.PNG", "c.avif", "link.jpeg", "photo.jpg"]
    assert read_photo(location.child("photo.jpg")) == b"photo"


def test_a_folder_with_more_photos_than_the_limit_is_refused(root, monkeypatch):
    (root / "another.jpg").write_bytes(b"")
    monkeypatch.setattr(sources, "MAX_IMPORT_PHOTOS", 1)

    with pytest.raises(InvalidSourceError) as caught:
        list_photos(SourceFolder(root).locate(root.as_uri()))
    assert caught.value.reason == "TOO_MANY_PHOTOS"


def test_a_file_is_no_folder_and_a_link_neither(root, tmp_path):
    (root / "up").symlink_to(tmp_path)

    for name in ("photo.jpg", "up"):
        with pytest.raises(SourceRefusedError):
            list_photos(SourceFolder(root).locate(f"{root.as_uri()}/{name}"))
