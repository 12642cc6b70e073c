"""The imaging service over a real server."""

import asyncio
import hashlib
import os
import uuid

import grpc
import pytest
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2
from outlastapi.imaging.v1 import imaging_pb2
from outlastapi.imaging.v1.imaging_pb2 import DerivativeSpec
from outlastapi.v1 import operations_admin_pb2
from outlastapi.v1.operation_metadata_pb2 import OperationMetadata
from PIL import Image

import outlast
from outlast_imaging import ImagingService
from outlast_imaging.errors import SourceRefusedError
from outlast_imaging.limits import CHUNK_BYTES

SMALL = DerivativeSpec(width=60)
SQUARE = DerivativeSpec(width=32, height=32, fit=DerivativeSpec.COVER, format=DerivativeSpec.WEBP)


@pytest.mark.assertion(45, 47)
async def test_a_photo_becomes_an_image(serve, encode, scene):
    async with serve() as client:
        photo = encode(scene)
        operation = await client.wait(
            await client.imaging.ProcessImage(
                imaging_pb2.ProcessImageRequest(content=photo, derivatives=[SMALL, SQUARE])
            )
        )
        image = client.response(operation, imaging_pb2.Image)
        got = await client.imaging.GetImage(imaging_pb2.GetImageRequest(name=image.name))

    assert image.name == operation.name.replace("operations/", "images/")
    assert image.description.sha256 == hashlib.sha256(photo).hexdigest()
    assert [(each.width, each.height) for each in image.derivatives] == [(60, 40), (32, 32)]
    assert image.derivatives[0].name == f"{image.name}/derivatives/60x0-inside-q82.jpg"
    assert got == image


async def test_the_metadata_tells_how_far_the_work_is(serve, encode, scene):
    async with serve() as client:
        request = imaging_pb2.ProcessImageRequest(content=encode(scene), derivatives=[SMALL])
        operation = await client.wait(await client.imaging.ProcessImage(request))

    image = client.response(operation, imaging_pb2.Image)
    metadata = client.metadata(operation, imaging_pb2.ProcessImageMetadata)
    assert [(each.stage, each.completed, each.total) for each in client.reported] == [
        ("describe", 0, 3),
        ("derive", 1, 3),
        ("derive", 2, 3),
        ("publish", 3, 3),
    ]
    assert metadata.image == image.name
    assert metadata.description == image.description
    assert metadata.derivatives == [image.derivatives[0].name]
    assert metadata.operation.attempt == 1
    assert metadata.operation.progress.percent == 100


async def test_a_photo_is_read_from_the_folder_into_an_album(serve, photos, encode, scene):
    (photos / "a photo.jpg").write_bytes(encode(scene))
    async with serve() as client:
        request = imaging_pb2.ProcessImageRequest(
            parent="albums/summer", uri=(photos / "a photo.jpg").as_uri()
        )
        operation = await client.wait(await client.imaging.ProcessImage(request))
        image = client.response(operation, imaging_pb2.Image)
        album = await client.imaging.ListImages(
            imaging_pb2.ListImagesRequest(parent="albums/summer")
        )
        others = await client.imaging.ListImages(imaging_pb2.ListImagesRequest())

    assert operation.name.startswith("albums/summer/operations/")
    assert image.name.startswith("albums/summer/images/")
    assert list(album.images) == [image]
    assert not others.images


@pytest.mark.parametrize(
    ("fields", "code", "expected"),
    [
        ({}, "INVALID_ARGUMENT", "INVALID_FIELD"),
        ({"content": b""}, "INVALID_ARGUMENT", "INVALID_FIELD"),
        ({"uri": ""}, "INVALID_ARGUMENT", "INVALID_FIELD"),
        ({"uri": "http://127.0.0.1/x.jpg"}, "INVALID_ARGUMENT", "INVALID_FIELD"),
        ({"uri": "file:///etc/passwd"}, "PERMISSION_DENIED", "OUTSIDE_ROOT"),
        ({"uri": "file:///x/../../etc/passwd"}, "PERMISSION_DENIED", "OUTSIDE_ROOT"),
        ({"content": b"x", "parent": "users/1"}, "INVALID_ARGUMENT", "INVALID_FIELD"),
        ({"content": b"x", "parent": "albums/.."}, "INVALID_ARGUMENT", "INVALID_FIELD"),
        (
            {"content": b"x", "derivatives": [DerivativeSpec(width=99_999)]},
            "INVALID_ARGUMENT",
            "INVALID_FIELD",
        ),
        (
            {"content": b"x", "derivatives": [SMALL] * 17},
            "INVALID_ARGUMENT",
            "INVALID_FIELD",
        ),
    ],
    ids=str,
)
async def test_a_request_that_cannot_be_met_starts_nothing(serve, fields, code, expected):
    async with serve() as client:
        request = imaging_pb2.ProcessImageRequest(**fields)

        assert await client.refusal(client.imaging.ProcessImage(request)) == (
            grpc.StatusCode[code],
            expected,
        )
        assert await client.operation_count() == 0


async def test_a_photo_that_is_larger_than_a_request_may_be_starts_nothing(serve, encode, scene):
    async with serve() as client:
        request = imaging_pb2.ProcessImageRequest(content=bytes(5 * 1024 * 1024))

        refused = await client.refusal(client.imaging.ProcessImage(request))
        assert refused == (grpc.StatusCode.RESOURCE_EXHAUSTED, "PAYLOAD_TOO_LARGE")
        assert await client.operation_count() == 0
        await client.process(encode(scene), SMALL)


async def failure(client, **source):
    operation = await client.wait(
        await client.imaging.ProcessImage(imaging_pb2.ProcessImageRequest(**source))
    )
    metadata = client.metadata(operation, imaging_pb2.ProcessImageMetadata)
    assert operation.WhichOneof("result") == "error"
    assert metadata.operation.attempt == 1
    assert not metadata.operation.dead_letter
    return outlast.Code(operation.error.code).name, client.reason(operation.error)


async def test_a_photo_that_cannot_be_processed_fails_at_once(
    serve, photos, encode, scene, png_that_says
):
    tmp_path = photos.parent
    (tmp_path / "secret.jpg").write_bytes(encode(scene))
    (photos / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    os.mkfifo(photos / "pipe.jpg")
    (photos / "empty.jpg").touch()
    root = photos.as_uri()
    async with serve() as client:
        failures = [
            await failure(client, content=encode(scene)[:2000]),
            await failure(client, content=b"no photo"),
            await failure(client, content=encode(scene, "GIF")),
            await failure(client, content=png_that_says(50_000, 50_000)),
            await failure(client, uri=f"{root}/empty.jpg"),
            await failure(client, uri=f"{root}/link.jpg"),
            await failure(client, uri=f"{root}/pipe.jpg"),
            await failure(client, uri=f"{root}/missing.jpg"),
        ]
        served = await client.process(encode(scene), SMALL)

    assert failures == [
        ("INVALID_ARGUMENT", "BROKEN_PHOTO"),
        ("INVALID_ARGUMENT", "UNSUPPORTED_FORMAT"),
        ("INVALID_ARGUMENT", "UNSUPPORTED_FORMAT"),
        ("INVALID_ARGUMENT", "TOO_MANY_PIXELS"),
        ("INVALID_ARGUMENT", "EMPTY_PHOTO"),
        ("PERMISSION_DENIED", "NOT_A_REGULAR_FILE"),
        ("PERMISSION_DENIED", "NOT_A_REGULAR_FILE"),
        ("NOT_FOUND", "FILE_NOT_FOUND"),
    ]
    assert served.derivatives
    assert len(list((tmp_path / "artifacts" / "images").iterdir())) == 1


async def test_the_same_request_id_makes_one_image(serve, encode, scene):
    request = imaging_pb2.ProcessImageRequest(content=encode(scene), request_id=str(uuid.uuid4()))
    async with serve() as client:
        first, second = await asyncio.gather(
            client.imaging.ProcessImage(request), client.imaging.ProcessImage(request)
        )
        await client.wait(first)
        listed = await client.imaging.ListImages(imaging_pb2.ListImagesRequest())

    assert first.name == second.name
    assert len(listed.images) == 1


async def test_a_request_that_is_only_checked_makes_nothing(serve, tmp_path, encode, scene):
    async with serve() as client:
        checked = await client.imaging.ProcessImage(
            imaging_pb2.ProcessImageRequest(content=encode(scene), validate_only=True)
        )

        assert checked.done
        assert await client.operation_count() == 0
    assert not (tmp_path / "artifacts").exists()


@pytest.fixture
def long_request(encode):
    """Ask for what takes seconds."""
    photo = encode(Image.effect_noise((600, 450), 90).convert("RGB"), quality=60)
    specs = [
        DerivativeSpec(width=600 - each, format=DerivativeSpec.AVIF, quality=90)
        for each in range(16)
    ]
    return imaging_pb2.ProcessImageRequest(content=photo, derivatives=specs)


async def until_derived(client, operation, count):
    """Return the metadata of an operation once it has so many derivatives."""
    kind = imaging_pb2.ProcessImageMetadata
    return await client.until(operation, kind, lambda each: len(each.derivatives) >= count)


async def test_of_a_cancelled_operation_nothing_is_left(serve, tmp_path, long_request):
    async with serve() as client:
        operation = await client.imaging.ProcessImage(long_request)
        metadata = await until_derived(client, operation, 1)
        assert (tmp_path / "artifacts" / metadata.image / "original.jpg").exists()

        await client.operations.CancelOperation(
            operations_pb2.CancelOperationRequest(name=operation.name)
        )
        operation = await client.wait(operation)

    assert operation.error.code == outlast.Code.CANCELLED
    assert not (tmp_path / "artifacts" / metadata.image).exists()


async def test_a_cancelled_operation_that_is_redriven_makes_its_files_anew(
    serve, tmp_path, long_request
):
    del long_request.derivatives[3:]
    async with serve() as client:
        operation = await client.imaging.ProcessImage(long_request)
        await until_derived(client, operation, 1)
        await client.operations.CancelOperation(
            operations_pb2.CancelOperationRequest(name=operation.name)
        )
        await client.wait(operation)
        operation = await client.admin.RedriveOperation(
            operations_admin_pb2.RedriveOperationRequest(name=operation.name)
        )
        image = client.response(await client.wait(operation), imaging_pb2.Image)
        got = await client.imaging.GetImage(imaging_pb2.GetImageRequest(name=image.name))

    assert got == image
    files = [tmp_path / "artifacts" / each.name for each in image.derivatives]
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    assert digests == [each.sha256 for each in image.derivatives]
    assert len(digests) == 3


async def test_work_that_was_interrupted_goes_on_where_it_was(serve, tmp_path, long_request):
    store = str(tmp_path / "operations.db")
    del long_request.derivatives[4:]
    async with serve(store=store) as client:
        operation = await client.imaging.ProcessImage(long_request)
        metadata = await until_derived(client, operation, 1)
    finished = [tmp_path / "artifacts" / name for name in metadata.derivatives]
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in finished]

    async with serve(store=store) as client:
        image = client.response(await client.wait(operation), imaging_pb2.Image)

    assert [each.name for each in image.derivatives[: len(finished)]] == metadata.derivatives
    assert len(image.derivatives) == 4
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in finished] == before


async def test_a_derivative_is_downloaded_from_anywhere(serve, encode):
    noise = Image.effect_noise((700, 700), 90).convert("RGB")
    spec = DerivativeSpec(width=700, format=DerivativeSpec.PNG)
    async with serve() as client:
        image = await client.process(encode(noise), spec)
        (derivative,) = image.derivatives

        async def download(offset):
            request = imaging_pb2.DownloadDerivativeRequest(
                name=derivative.name, read_offset=offset
            )
            return [each.data async for each in client.imaging.DownloadDerivative(request)]

        chunks = await download(0)
        rest = await download(1000)
        nothing = await download(derivative.size_bytes)

    assert hashlib.sha256(b"".join(chunks)).hexdigest() == derivative.sha256
    assert len(chunks) > 1
    assert {len(each) for each in chunks[:-1]} == {CHUNK_BYTES}
    assert b"".join(rest) == b"".join(chunks)[1000:]
    assert nothing == []


async def test_what_is_not_there_cannot_be_downloaded(serve, encode, scene):
    async with serve() as client:
        image = await client.process(encode(scene), SMALL)

        def download(name, offset=0):
            request = imaging_pb2.DownloadDerivativeRequest(name=name, read_offset=offset)
            return client.imaging.DownloadDerivative(request).read()

        code = grpc.StatusCode
        for name, offset, expected in (
            (image.derivatives[0].name, -1, (code.OUT_OF_RANGE, "READ_OFFSET_OUT_OF_RANGE")),
            (image.derivatives[0].name, 2**40, (code.OUT_OF_RANGE, "READ_OFFSET_OUT_OF_RANGE")),
            (f"{image.name}/derivatives/x", 0, (code.NOT_FOUND, "DERIVATIVE_NOT_FOUND")),
            ("images/none/derivatives/x", 0, (code.NOT_FOUND, "IMAGE_NOT_FOUND")),
            (f"{image.name}/image.json", 0, (code.INVALID_ARGUMENT, "INVALID_FIELD")),
            (
                f"{image.name}/derivatives/../image.json",
                0,
                (code.INVALID_ARGUMENT, "INVALID_FIELD"),
            ),
        ):
            assert await client.refusal(download(name, offset)) == expected


async def test_a_derivative_whose_file_was_deleted_meanwhile_is_not_found(
    serve, tmp_path, encode, scene
):
    async with serve() as client:
        (derivative,) = (await client.process(encode(scene), SMALL)).derivatives
        (tmp_path / "artifacts" / derivative.name).unlink()
        request = imaging_pb2.DownloadDerivativeRequest(name=derivative.name)

        assert await client.refusal(client.imaging.DownloadDerivative(request).read()) == (
            grpc.StatusCode.NOT_FOUND,
            "DERIVATIVE_NOT_FOUND",
        )


@pytest.mark.assertion(15)
async def test_an_image_that_does_not_exist_is_not_found(serve):
    async with serve() as client:
        not_found = (grpc.StatusCode.NOT_FOUND, "IMAGE_NOT_FOUND")
        invalid = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        get, delete = client.imaging.GetImage, client.imaging.DeleteImage

        assert await client.refusal(get(imaging_pb2.GetImageRequest(name="images/1"))) == not_found
        assert await client.refusal(get(imaging_pb2.GetImageRequest(name="images/../1"))) == invalid
        assert (
            await client.refusal(delete(imaging_pb2.DeleteImageRequest(name="images/1")))
            == not_found
        )
        assert await client.refusal(delete(imaging_pb2.DeleteImageRequest())) == invalid
        assert await client.operation_count() == 0


async def test_a_list_of_something_else_is_refused(serve):
    async with serve() as client:
        for request in (
            imaging_pb2.ListImagesRequest(parent="users/1"),
            imaging_pb2.ListImagesRequest(page_size=-1),
            imaging_pb2.ListImagesRequest(page_token="forged"),
        ):
            refused = await client.refusal(client.imaging.ListImages(request))
            assert refused == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


@pytest.mark.assertion(46)
async def test_a_deleted_image_is_gone_with_its_files(serve, tmp_path, encode, scene):
    async with serve() as client:
        image = await client.process(encode(scene), SMALL)
        operation = await client.wait(
            await client.imaging.DeleteImage(imaging_pb2.DeleteImageRequest(name=image.name))
        )

        assert client.response(operation, empty_pb2.Empty) == empty_pb2.Empty()
        assert client.metadata(operation, OperationMetadata).target == image.name
        code, _ = await client.refusal(
            client.imaging.GetImage(imaging_pb2.GetImageRequest(name=image.name))
        )
        assert code == grpc.StatusCode.NOT_FOUND
    assert not (tmp_path / "artifacts" / image.name).exists()


async def test_two_deletions_of_an_image_do_not_run_at_once(serve, encode, scene):
    async with serve() as client:
        image = await client.process(encode(scene))
    async with serve(execute=False) as client:
        delete = imaging_pb2.DeleteImageRequest(name=image.name)
        await client.imaging.DeleteImage(delete)

        assert await client.refusal(client.imaging.DeleteImage(delete)) == (
            grpc.StatusCode.ABORTED,
            "PARALLEL_OPERATION",
        )


async def test_images_outlive_the_server(serve, encode, scene):
    async with serve() as client:
        image = await client.process(encode(scene), SMALL)
    async with serve() as client:
        got = await client.imaging.GetImage(imaging_pb2.GetImageRequest(name=image.name))

    assert got == image


async def test_more_photos_than_processes_are_all_processed(serve, encode, scene):
    async with serve() as client:
        images = await asyncio.gather(
            *(client.process(encode(scene.rotate(each)), SMALL) for each in range(10))
        )

    assert len({image.name for image in images}) == 10


def test_the_environment_configures_the_service(tmp_path, photos, encode, scene):
    (photos / "a.jpg").write_bytes(encode(scene))

    configured = ImagingService.from_environment(
        {
            "OUTLAST_IMAGING_ROOT": str(photos),
            "OUTLAST_IMAGING_ARTIFACTS": str(tmp_path / "elsewhere"),
        }
    )

    assert configured._folder.locate((photos / "a.jpg").as_uri()).names == ("a.jpg",)
    assert configured._artifacts.uri("x") == (tmp_path / "elsewhere" / "x").as_uri()


def test_by_default_no_file_is_read_and_artifacts_lie_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    default = ImagingService.from_environment({"OUTLAST_IMAGING_ROOT": ""})

    with pytest.raises(SourceRefusedError):
        default._folder.locate(tmp_path.as_uri())
    assert default._artifacts.uri("x") == (tmp_path / "artifacts" / "x").as_uri()
