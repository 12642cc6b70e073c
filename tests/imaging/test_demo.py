"""The demonstration, and a server that is killed."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from outlastapi.imaging.v1 import imaging_pb2, imaging_pb2_grpc
from outlastapi.v1.operation_metadata_pb2 import OperationMetadata
from PIL import Image
from rich.console import Console

import outlast_imaging
from outlast_imaging.demo.display import live_display, print_table

SAMPLES = Path(outlast_imaging.__file__).parent / "samples"


@pytest.fixture
def folder(tmp_path, encode, scene):
    folder = tmp_path / "my photos"
    folder.mkdir()
    for turn in range(4):
        (folder / f"{turn}.jpg").write_bytes(encode(scene.rotate(turn * 10)))
    return folder


def demo(folder, *options, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "outlast_imaging.demo", str(folder), "--data", "the data", *options],
        cwd=cwd or folder.parent,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def operations_in(output):
    return sorted(set(re.findall(r"operations/[0-9a-f-]{36}", output)))


def derivatives_in(output):
    """Return the files that the end of an output names, the folder of all first."""
    root, lines = re.search(
        r"^The derivatives are in (.*):\n((?:.*/: .*\n)+)", output, re.MULTILINE
    ).groups()
    listed = (line.split("/: ") for line in lines.splitlines())
    return {Path(root, folder, name) for folder, names in listed for name in names.split(", ")}


def stamp(path):
    """Return what differs once a file has been written again."""
    return path.stat().st_ino, path.stat().st_mtime_ns


def stamps(folder):
    return {path: stamp(path) for path in folder.rglob("*") if path.is_file()}


def test_the_demo_processes_photos_and_does_not_do_so_again(folder):
    first = demo(folder, "--no-kill")
    made = stamps(folder.parent / "the data" / "artifacts")
    second = demo(folder, "--no-kill")

    assert (first.returncode, first.stderr) == (0, "")
    assert (second.returncode, second.stderr) == (0, "")
    assert first.stdout.count("SUCCEEDED") == second.stdout.count("SUCCEEDED") == 4
    assert len(operations_in(first.stdout)) == 4
    assert operations_in(second.stdout) == operations_in(first.stdout)
    assert stamps(folder.parent / "the data" / "artifacts") == made
    files = {path for path in made if path.parent.name == "derivatives"}
    assert len(files) == 12
    assert derivatives_in(second.stdout) == files
    assert second.stdout.count(str(folder.parent / "the data" / "artifacts")) == 1
    assert first.stdout.endswith("4 of 4 photos processed.\n")
    assert "earlier run" not in first.stdout
    assert "4 of 4 photos had been dealt with by an earlier run" in second.stdout
    assert f"To start anew, remove {folder.parent / 'the data'}\n" in second.stdout


def test_the_demo_says_which_photo_failed_and_why(folder):
    (folder / "broken.jpg").write_bytes((folder / "0.jpg").read_bytes()[:1000])

    ended = demo(folder, "--no-kill")

    assert ended.returncode == 1
    assert ended.stdout.count("SUCCEEDED") == 4
    assert "broken.jpg failed: INVALID_ARGUMENT: the photograph is broken" in ended.stdout
    assert ended.stdout.endswith(
        "4 of 5 photos processed; these failed, hence the exit status 1: broken.jpg\n"
    )


def test_a_path_to_the_photos_may_be_relative_and_lead_through_the_folder_above(folder):
    (folder / "elsewhere").mkdir()

    ended = demo("../my photos", "--no-kill", cwd=folder / "elsewhere" / "..")

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.count("SUCCEEDED") == 4


def test_a_folder_without_photos_is_no_demo(tmp_path):
    ended = demo(tmp_path)

    assert ended.returncode == 1
    assert "The demo failed" in ended.stderr
    assert "has no files that end in .jpg" in ended.stderr


@pytest.mark.parametrize(
    "name", ["0.jpg", f"missing/{'long ' * 40}/0.jpg"], ids=["file", "missing"]
)
def test_photos_that_are_no_folder_are_refused_in_one_line(folder, name):
    ended = demo(folder / name, cwd=folder)

    assert ended.returncode == 1
    assert ended.stderr == (
        f"The demo failed: PHOTOS must be a folder of photographs: {folder / name} is not a folder\n"
    )
    assert not (folder / "the data").exists()


def test_a_server_that_cannot_start_ends_the_demo_with_its_reason(folder):
    (folder.parent / "the data").mkdir()
    (folder.parent / "the data" / "operations.db").write_bytes(b"no database" * 100)

    ended = demo(folder)

    assert ended.returncode == 1
    assert "the server did not start (exit status 8)" in ended.stderr
    assert "operations.db" in ended.stderr


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_demo_goes_on_after_it_has_killed_its_server(folder):
    for photo in SAMPLES.iterdir():
        shutil.copy(photo, folder)

    ended = demo(folder)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.count("with SIGKILL") == 1
    assert "The server has died (signal 9). It is started again." in ended.stdout
    assert ended.stdout.count("SUCCEEDED") == 10


@contextmanager
def server(folder):
    """Run a server in a process of its own; yield the process and a channel to it."""
    command = [sys.executable, "-m", "outlast", "serve", "--listen", "127.0.0.1:0"]
    command += ["--store", "operations.db", "--service", "outlast_imaging:ImagingService"]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"OUTLAST_LEASE": "2s"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            address = re.match(r"Ready at (\S+),", process.stdout.readline())[1]
            with grpc.insecure_channel(address) as channel:
                yield process, channel
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_after_a_kill_no_finished_step_runs_again(tmp_path, encode):
    photo = encode(Image.effect_noise((1000, 750), 90).convert("RGB"), quality=60)
    specs = [
        imaging_pb2.DerivativeSpec(
            width=1000 - each, format=imaging_pb2.DerivativeSpec.AVIF, quality=90
        )
        for each in range(8)
    ]
    request = imaging_pb2.ProcessImageRequest(content=photo, derivatives=specs)
    metadata = imaging_pb2.ProcessImageMetadata()
    with server(tmp_path) as (process, channel):
        name = imaging_pb2_grpc.ImagingServiceStub(channel).ProcessImage(request).name
        operations = operations_pb2_grpc.OperationsStub(channel)
        while len(metadata.derivatives) < 2:
            operation = operations.GetOperation(operations_pb2.GetOperationRequest(name=name))
            operation.metadata.Unpack(metadata)
        assert not operation.done
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = [tmp_path / "artifacts" / each for each in metadata.derivatives]
    before = [stamp(path) for path in finished]

    with server(tmp_path) as (process, channel):
        operations = operations_pb2_grpc.OperationsStub(channel)
        while not operation.done:
            operation = operations.WaitOperation(operations_pb2.WaitOperationRequest(name=name))

    image = imaging_pb2.Image()
    assert operation.response.Unpack(image)
    operation.metadata.Unpack(metadata)
    assert metadata.operation.last_error.message == "the worker that ran this attempt was lost"
    assert len(image.derivatives) == 8
    assert [stamp(path) for path in finished] == before


def running(name):
    """Return an operation that runs."""
    metadata = imaging_pb2.ProcessImageMetadata()
    metadata.operation.state = OperationMetadata.RUNNING
    metadata.operation.progress.completed = 1
    metadata.operation.progress.total = 4
    metadata.operation.progress.percent = 25
    metadata.operation.progress.message = "described"
    operation = operations_pb2.Operation(name=name)
    operation.metadata.Pack(metadata)
    return operation


def test_a_terminal_shows_a_bar_for_each_operation():
    terminal = Console(file=io.StringIO(), force_terminal=True, highlight=False, width=100)

    with live_display(terminal) as display:
        display.show("a [photo].jpg", running("operations/1"))
        display.show("another.jpg", running("operations/2"))
        display.notice("[notice]")

    shown = terminal.file.getvalue()
    assert "━" in shown
    for text in ("a [photo].jpg", "another.jpg", "25%", "described", "[notice]"):
        assert text in shown


def test_the_table_never_breaks_a_name_however_narrow_the_terminal_is():
    name = "operations/5a3c1f0e-7d7c-4b8e-9d55-3f0d6c1b2a41"
    terminal = Console(file=io.StringIO(), force_terminal=True, width=40)

    print_table(terminal, {"a rather long name of a [photo].jpg": running(name)})

    assert f"a rather long name of a [photo].jpg {name} RUNNING" in " ".join(
        terminal.file.getvalue().split()
    )


def test_elsewhere_a_line_tells_what_has_changed():
    console = Console(file=io.StringIO(), width=100)

    with live_display(console) as display:
        display.show("a.jpg", running("operations/1"))
        display.show("a.jpg", running("operations/1"))

    assert console.file.getvalue() == "a.jpg: 25 % described\n"
