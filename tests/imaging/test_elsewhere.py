"""The imaging service with artifacts that are in no folder."""

import hashlib

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from outlastapi.imaging.v1 import imaging_pb2
from outlastapi.imaging.v1.imaging_pb2 import DerivativeSpec

import outlast

SMALL = DerivativeSpec(width=60)


@pytest.fixture
def artifacts(tmp_path, monkeypatch):
    # A worker process would have a memory of its own, so the work is done in this one.
    monkeypatch.setattr(
        outlast.OperationContext, "run_in_process", outlast.OperationContext.run_in_thread
    )
    return f"memory://{tmp_path.name}"


@pytest.fixture
def kept(artifacts):
    """Return what lists the paths of all artifacts."""
    files = MemoryFileSystem()
    return lambda: files.find(artifacts)


async def test_photos_are_processed_downloaded_and_deleted_without_a_folder(
    serve, artifacts, kept, encode, scene
):
    async with serve() as client:
        photo = encode(scene)
        image = await client.process(photo, SMALL, parent="albums/a")
        (derivative,) = image.derivatives
        got = await client.imaging.GetImage(imaging_pb2.GetImageRequest(name=image.name))
        album = imaging_pb2.ListImagesRequest(parent="albums/a")
        listed = await client.imaging.ListImages(album)
        rest = imaging_pb2.DownloadDerivativeRequest(name=derivative.name, read_offset=10)
        whole = imaging_pb2.DownloadDerivativeRequest(name=derivative.name)
        data = [
            b"".join([each.data async for each in client.imaging.DownloadDerivative(request)])
            for request in (whole, rest)
        ]
        files = kept()
        deleting = await client.imaging.DeleteImage(imaging_pb2.DeleteImageRequest(name=image.name))
        assert (await client.wait(deleting)).HasField("response")
        assert not (await client.imaging.ListImages(album)).images

    root = artifacts.replace("memory://", "/")
    assert got == image == listed.images[0]
    assert derivative.uri == f"memory://{root}/{derivative.name}"
    assert hashlib.sha256(data[0]).hexdigest() == derivative.sha256
    assert data[1] == data[0][10:]
    assert sorted(files) == [
        f"{root}/{image.name}/derivatives/60x0-inside-q82.jpg",
        f"{root}/{image.name}/image.json",
        f"{root}/{image.name}/original.jpg",
    ]
    assert kept() == []


async def test_a_folder_is_imported_without_a_folder_for_artifacts(
    serve, photos, kept, encode, scene
):
    (photos / "a.jpg").write_bytes(encode(scene))
    (photos / "b.jpg").write_bytes(b"no photo")
    async with serve() as client:
        operation = await client.wait(
            await client.imaging.ImportImages(
                imaging_pb2.ImportImagesRequest(uri=photos.as_uri(), derivatives=[SMALL])
            )
        )
        (name,) = client.response(operation, imaging_pb2.ImportImagesResponse).images
        await client.wait(
            await client.imaging.DeleteImage(imaging_pb2.DeleteImageRequest(name=name))
        )
    assert kept() == []
