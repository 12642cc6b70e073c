"""The import of folders over a real server."""

import asyncio
import os
from collections import Counter
from pathlib import Path

import grpc
import pytest
from google.longrunning import operations_pb2
from outlastapi.imaging.v1 import imaging_pb2
from outlastapi.imaging.v1.imaging_pb2 import DerivativeSpec
from PIL import Image

import outlast
from outlast_imaging.limits import MAX_PROCESS_TRIES
from outlast_imaging.work import import_photo, take_photo

SMALL = DerivativeSpec(width=60)


@pytest.mark.assertion(54)
async def test_a_folder_is_imported_and_its_failures_are_told(serve, photos, encode, scene):
    (photos / "a.jpg").write_bytes(encode(scene))
    (photos / "b.jpg").write_bytes(b"no photo")
    (photos / "c.png").write_bytes(encode(scene, "PNG"))
    (photos / "notes.txt").write_bytes(b"no photo either")
    async with serve() as client:
        operation = await client.wait(
            await client.imaging.ImportImages(
                imaging_pb2.ImportImagesRequest(
                    parent="albums/a", uri=photos.as_uri(), derivatives=[SMALL]
                )
            )
        )
        response = client.response(operation, imaging_pb2.ImportImagesResponse)
        listed = await client.imaging.ListImages(imaging_pb2.ListImagesRequest(parent="albums/a"))

    metadata = client.metadata(operation, imaging_pb2.ImportImagesMetadata)
    assert [each.name for each in listed.images] == list(response.images)
    assert [each.description.content_type for each in listed.images] == ["image/jpeg", "image/png"]
    assert all(len(each.derivatives) == 1 for each in listed.images)
    assert response.failed_count == metadata.failed_count == 1
    assert (metadata.photo_count, metadata.imported_count) == (3, 2)
    assert list(metadata.failed_requests) == [1]
    assert client.reason(metadata.failed_requests[1]) == "UNSUPPORTED_FORMAT"
    assert [(each.stage, each.completed, each.total) for each in client.reported] == [
        ("import", 0, 3),
        ("import", 1, 3),
        ("import", 2, 3),
        ("import", 3, 3),
    ]


async def test_a_photograph_whose_name_is_no_text_is_imported(serve, photos, encode, scene):
    name = os.fsencode(photos) + b"/caf\xe9.jpg"
    await asyncio.to_thread(lambda: Path(os.fsdecode(name)).write_bytes(encode(scene)))
    async with serve() as client:
        operation = await client.wait(
            await client.imaging.ImportImages(imaging_pb2.ImportImagesRequest(uri=photos.as_uri()))
        )
        response = client.response(operation, imaging_pb2.ImportImagesResponse)
    metadata = client.metadata(operation, imaging_pb2.ImportImagesMetadata)
    assert len(response.images) == 1
    assert metadata.operation.progress.message == "caf?.jpg"


@pytest.mark.assertion(54)
async def test_an_import_of_which_nothing_succeeds_is_aborted(serve, photos):
    (photos / "a.jpg").write_bytes(b"")
    (photos / "b.jpg").write_bytes(b"no photo")
    async with serve() as client:
        operation = await client.wait(
            await client.imaging.ImportImages(imaging_pb2.ImportImagesRequest(uri=photos.as_uri()))
        )

    metadata = client.metadata(operation, imaging_pb2.ImportImagesMetadata)
    assert operation.error.code == outlast.Code.ABORTED
    assert "ImportImagesMetadata.failed_requests" in operation.error.message
    assert sorted(metadata.failed_requests) == [0, 1]


async def test_failures_beyond_the_limit_are_counted_only(serve, photos, monkeypatch):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (photos / name).write_bytes(b"no photo")
    monkeypatch.setattr("outlast_imaging.service.MAX_TOLD_FAILURES", 2)
    async with serve() as client:
        operation = await client.wait(
            await client.imaging.ImportImages(imaging_pb2.ImportImagesRequest(uri=photos.as_uri()))
        )

    metadata = client.metadata(operation, imaging_pb2.ImportImagesMetadata)
    assert metadata.failed_count == 3
    assert sorted(metadata.failed_requests) == [0, 1]


async def test_an_import_needs_a_folder_of_the_server(serve, photos):
    (photos / "a.jpg").write_bytes(b"")
    async with serve() as client:

        def start(uri):
            return client.imaging.ImportImages(imaging_pb2.ImportImagesRequest(uri=uri))

        denied, invalid = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT
        assert await client.refusal(start("file:///etc")) == (denied, "OUTSIDE_ROOT")
        assert await client.refusal(start("")) == (invalid, "INVALID_FIELD")
        missing = await client.wait(await start(f"{photos.as_uri()}/missing"))
        no_folder = await client.wait(await start(f"{photos.as_uri()}/a.jpg"))

    assert missing.error.code == outlast.Code.NOT_FOUND
    assert no_folder.error.code == outlast.Code.PERMISSION_DENIED


async def test_an_empty_folder_is_imported(serve, photos):
    async with serve() as client:
        operation = await client.wait(
            await client.imaging.ImportImages(imaging_pb2.ImportImagesRequest(uri=photos.as_uri()))
        )

    assert not client.response(operation, imaging_pb2.ImportImagesResponse).images


@pytest.fixture
def long_request(photos, encode):
    """Ask for the import of a broken photograph, and then of four that take a while each."""
    (photos / "0.jpg").write_bytes(b"no photo")
    noise = encode(Image.effect_noise((600, 450), 90).convert("RGB"), quality=60)
    for number in range(1, 5):
        (photos / f"{number}.jpg").write_bytes(noise)
    spec = DerivativeSpec(width=600, format=DerivativeSpec.AVIF)
    return imaging_pb2.ImportImagesRequest(uri=photos.as_uri(), derivatives=[spec])


async def until_imported(client, operation, count):
    """Return the metadata of an import once it has made so many images."""
    kind = imaging_pb2.ImportImagesMetadata
    return await client.until(operation, kind, lambda each: each.imported_count >= count)


def made(tmp_path):
    """Return the folders of the images, in order, by whether the image exists."""
    folders = sorted((tmp_path / "artifacts" / "images").iterdir())
    return {folder: (folder / "image.json").exists() for folder in folders}


def stamps(folders):
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return [(path, path.stat().st_ino, path.stat().st_mtime_ns) for path in files]


async def test_an_import_that_was_interrupted_goes_on_where_it_was(serve, tmp_path, long_request):
    store = str(tmp_path / "operations.db")
    async with serve(store=store) as client:
        operation = await client.imaging.ImportImages(long_request)
        counted = await until_imported(client, operation, 1)
        reported = client.reported
    finished = [folder for folder, exists in made(tmp_path).items() if exists]
    before = stamps(finished)
    assert counted.imported_count <= len(finished) < 4

    async with serve(store=store) as client:
        operation = await client.wait(operation)
        completed = [each.completed for each in reported + client.reported]
        listed = await client.imaging.ListImages(imaging_pb2.ListImagesRequest())

    response = client.response(operation, imaging_pb2.ImportImagesResponse)
    metadata = client.metadata(operation, imaging_pb2.ImportImagesMetadata)
    assert [each.name for each in listed.images] == list(response.images)
    assert [len(each.derivatives) for each in listed.images] == [1] * 4
    assert response.failed_count == metadata.failed_count == 1
    assert (metadata.photo_count, metadata.imported_count) == (5, 4)
    assert [client.reason(each) for each in metadata.failed_requests.values()] == [
        "UNSUPPORTED_FORMAT"
    ]
    assert completed == sorted(completed)
    assert set(completed) == set(range(6))
    assert stamps(finished) == before


async def test_a_cancelled_import_keeps_its_images_and_nothing_else(serve, tmp_path, long_request):
    async with serve() as client:
        operation = await client.imaging.ImportImages(long_request)
        await until_imported(client, operation, 1)
        while all(made(tmp_path).values()):  # noqa: ASYNC110  # another process makes the files
            await asyncio.sleep(0.002)
        await client.operations.CancelOperation(
            operations_pb2.CancelOperationRequest(name=operation.name)
        )
        operation = await client.wait(operation)
        listed = await client.imaging.ListImages(imaging_pb2.ListImagesRequest())

    metadata = client.metadata(operation, imaging_pb2.ImportImagesMetadata)
    assert operation.error.code == outlast.Code.CANCELLED
    assert metadata.imported_count <= len(listed.images) < 4
    assert metadata.failed_count == len(metadata.failed_requests) == 1
    assert [tmp_path / "artifacts" / each.name for each in listed.images] == list(made(tmp_path))


@pytest.fixture
def deaths(monkeypatch):
    """Let photographs kill the process that imports them, each as often as is told here."""
    run_in_process = outlast.OperationContext.run_in_process
    deaths = Counter()

    async def run(operation, function, *args):
        if function is import_photo:
            store, image, photo, _ = args
            if deaths[photo.names[-1]] > 0:
                deaths[photo.names[-1]] -= 1
                await run_in_process(operation, take_photo, store, image, photo)
                return await run_in_process(operation, os._exit, 3)
        return await run_in_process(operation, function, *args)

    monkeypatch.setattr(outlast.OperationContext, "run_in_process", run)
    return deaths


async def test_a_photo_that_kills_its_process_fails_alone(serve, photos, tmp_path, encode, deaths):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (photos / name).write_bytes(encode(Image.new("RGB", (60, 40))))
    deaths.update({"a.jpg": MAX_PROCESS_TRIES - 1, "b.jpg": MAX_PROCESS_TRIES})
    async with serve() as client:
        operation = await client.wait(
            await client.imaging.ImportImages(imaging_pb2.ImportImagesRequest(uri=photos.as_uri()))
        )
        response = client.response(operation, imaging_pb2.ImportImagesResponse)

    metadata = client.metadata(operation, imaging_pb2.ImportImagesMetadata)
    assert deaths.total() == 0
    assert [name.rpartition("-")[2] for name in response.images] == ["0000", "0002"]
    assert (metadata.imported_count, metadata.failed_count) == (2, 1)
    assert metadata.operation.attempt == 1
    assert list(metadata.failed_requests) == [1]
    assert metadata.failed_requests[1].code == outlast.Code.UNAVAILABLE
    assert client.reason(metadata.failed_requests[1]) == "PROCESS_DIED"
    assert [tmp_path / "artifacts" / name for name in response.images] == list(made(tmp_path))
