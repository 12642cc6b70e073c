"""`python -m outlast` as people run it: from a shell, in some folder."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import outlastapi.imaging.v1
import pytest
from PIL import Image

import outlast


def command(*arguments, folder, **environment):
    return subprocess.run(
        [sys.executable, "-m", "outlast", *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.fixture
def packages(folder):
    """The import roots of Outlast, in a folder with spaces in its name."""
    home = folder / "import root"
    sources = Path(outlast.__file__).parents[1]
    generated = Path(outlastapi.imaging.v1.__path__[0]).parents[2]
    for root, names in [
        (sources, ["outlast", "outlast_imaging", "outlast_script"]),
        (generated, ["outlastapi"]),
    ]:
        for name in names:
            ignored = shutil.ignore_patterns("__pycache__", "samples")
            shutil.copytree(root / name, home / name, ignore=ignored)
    return home


def test_photos_are_processed_by_commands_in_folders_with_spaces(serve, folder, packages):
    photo = folder / "my photos" / "a photo.png"
    photo.parent.mkdir()
    Image.radial_gradient("L").save(photo)
    environment = {"PYTHONPATH": str(packages), "OUTLAST_IMAGING_ROOT": str(photo.parent)}
    server = serve("--service", "outlast_imaging:ImagingService", **environment)
    environment["OUTLAST_ADDRESS"] = server.address
    request = {"uri": photo.as_uri(), "derivatives": [{"width": 64, "format": "WEBP"}]}

    called = command(
        "call", "ImagingService/ProcessImage", "--wait", "--data", json.dumps(request),
        folder=folder, **environment,
    )  # fmt: skip
    listed = command("operations", "list", "--json", folder=folder, **environment)

    assert called.returncode == 0, called.stderr
    (derivative,) = json.loads(called.stdout)["derivatives"]
    assert (folder / "artifacts" / derivative["name"]).stat().st_size > 0
    (operation,) = map(json.loads, listed.stdout.splitlines())
    assert operation["metadata"]["operation"]["state"] == "SUCCEEDED"
    assert operation["response"]["derivatives"] == [derivative]


def test_a_broken_photo_is_an_error_with_its_reason(serve, folder):
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 this is no photograph")
    server = serve("--service", "outlast_imaging:ImagingService", OUTLAST_IMAGING_ROOT=str(folder))
    request = json.dumps({"uri": (folder / "broken.jpg").as_uri()})

    called = command(
        "call", "ImagingService/ProcessImage", "--wait", "--data", request,
        "--address", server.address, folder=folder,
    )  # fmt: skip

    assert called.returncode == 1
    assert "INVALID_ARGUMENT" in called.stderr
    assert "Traceback" not in called.stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (["--script", "--store", "no folder/outlast.db"], 8, "no folder"),
        (["--script", "--store", "letter.txt"], 8, "letter.txt"),
        (["--script", "--store", "."], 8, "is a folder"),
        (["--service", "nowhere:Service"], 8, "there is no module 'nowhere'"),
        (["--script", "--listen", "0.0.0.0:0"], 2, "--tls-cert"),
        ([], 2, "no service: give --service"),
    ],
    ids=["no folder", "no database", "a folder", "no service", "open to all", "nothing"],
)
def test_a_server_that_cannot_start_says_why_and_exits(folder, arguments, exit_code, says):
    (folder / "letter.txt").write_text("Dear Sir or Madam, " * 100, encoding="utf-8")

    ended = command("serve", "--listen", "127.0.0.1:0", *arguments, folder=folder)

    assert ended.returncode == exit_code
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_two_servers_cannot_share_a_port(serve, folder):
    server = serve("--script")

    ended = command("serve", "--script", "--listen", server.address, folder=folder)

    assert ended.returncode == 8
    assert f"cannot listen on {server.address}" in ended.stderr
    assert server.result(server.run_script()).HasField("response")
