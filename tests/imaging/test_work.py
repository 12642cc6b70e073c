"""What the operations do, without a server."""

import hashlib

import pytest
from google.rpc import error_details_pb2
from outlastapi.imaging.v1 import imaging_pb2
from outlastapi.imaging.v1.imaging_pb2 import DerivativeSpec

import outlast
from outlast_imaging.artifacts import ArtifactStore
from outlast_imaging.catalogue import Catalogue
from outlast_imaging.errors import UnusablePhotoError
from outlast_imaging.limits import MAX_TOLD_FAILURES
from outlast_imaging.sources import Location
from outlast_imaging.specs import resolve_all
from outlast_imaging.work import import_photo, make_derivative, take_photo

SPECS = resolve_all(
    [DerivativeSpec(width=60), DerivativeSpec(width=30, format=DerivativeSpec.WEBP)]
)


@pytest.fixture
def store(tmp_path):
    return str(tmp_path / "artifacts")


def files(store):
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file()
    }


def test_a_photo_is_kept_as_it_was_sent(store, encode, scene):
    data = encode(scene)

    description = take_photo(store, "images/1", data)

    assert description.sha256 == hashlib.sha256(data).hexdigest()
    assert ArtifactStore(store).read("images/1/original.jpg") == data


def test_of_a_photo_that_is_broken_nothing_is_kept(store, encode, scene):
    with pytest.raises(UnusablePhotoError):
        take_photo(store, "images/1", encode(scene)[:2000])

    assert ArtifactStore(store).folders("images") == []


def test_a_derivative_is_kept_and_told(store, encode, scene):
    description = take_photo(store, "images/1", encode(scene))

    derivative = make_derivative(store, "images/1", description, SPECS[1])

    data = ArtifactStore(store).read(derivative.name)
    assert derivative.name == "images/1/derivatives/30x0-inside-q82.webp"
    assert derivative.spec == SPECS[1]
    assert (derivative.width, derivative.height) == (30, 20)
    assert derivative.content_type == "image/webp"
    assert derivative.size_bytes == len(data)
    assert derivative.sha256 == hashlib.sha256(data).hexdigest()


def test_to_do_it_all_again_changes_nothing(tmp_path, encode, scene):
    (tmp_path / "photo.jpg").write_bytes(encode(scene))
    store = tmp_path / "artifacts"
    photo = Location(str(tmp_path), ("photo.jpg",))

    import_photo(str(store), "images/1", photo, SPECS)
    first = files(store)
    import_photo(str(store), "images/1", photo, SPECS)

    assert len(first) == 4
    assert files(store) == first


def test_an_imported_photo_is_an_image(store, tmp_path, encode, scene):
    (tmp_path / "photo.jpg").write_bytes(encode(scene))

    status = import_photo(store, "images/1", Location(str(tmp_path), ("photo.jpg",)), SPECS)

    assert status.code == outlast.Code.OK
    image = Catalogue(ArtifactStore(store)).get("images/1")
    assert [derivative.width for derivative in image.derivatives] == [60, 30]


def test_a_photo_that_cannot_be_imported_says_why(store, tmp_path):
    name = b"caf\xe9.jpg".decode(errors="surrogateescape")
    (tmp_path / name).write_bytes(b"no photo")

    status = import_photo(store, "images/1", Location(str(tmp_path), (name,)), SPECS)

    info = error_details_pb2.ErrorInfo()
    assert status.code == outlast.Code.INVALID_ARGUMENT
    assert status.details[0].Unpack(info)
    assert (info.reason, info.metadata["photo"]) == ("UNSUPPORTED_FORMAT", "caf?.jpg")
    assert ArtifactStore(store).folders("images") == []


def test_as_many_failures_as_are_told_fit_into_the_metadata(store, tmp_path):
    name = "ä" * 120 + ".jpg"
    (tmp_path / name).write_bytes(b"no photo")
    status = import_photo(store, "images/1", Location(str(tmp_path), (name,)), SPECS)
    metadata = imaging_pb2.ImportImagesMetadata()

    for index in range(MAX_TOLD_FAILURES):
        metadata.failed_requests[index].CopyFrom(status)

    assert metadata.ByteSize() < outlast.EngineSettings().max_metadata_bytes
