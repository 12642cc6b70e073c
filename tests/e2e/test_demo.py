"""The demonstration, killed together with its server and run again."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from outlastapi.imaging.v1 import imaging_pb2

import outlast_imaging

SAMPLES = Path(outlast_imaging.__file__).parent / "samples"


@pytest.fixture
def photos(folder):
    photos = folder / "my photos"
    shutil.copytree(SAMPLES, photos)
    return photos


@pytest.fixture
def command(photos):
    return [sys.executable, "-m", "outlast_imaging.demo", photos.name, "--data", "the data"]


def finished(operations):
    """Return the derivatives that are finished, by operation."""
    page = operations.ListOperations(operations_pb2.ListOperationsRequest(), timeout=30)
    metadata = imaging_pb2.ProcessImageMetadata
    return {
        each.name: list(metadata.FromString(each.metadata.value).derivatives)
        for each in page.operations
    }


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the server in /proc")
def test_a_demo_that_was_killed_with_its_server_goes_on_when_it_is_run_again(
    folder, photos, command, eventually
):
    def stamps(names):
        stats = [(folder / "the data" / "artifacts" / name).stat() for name in names]
        return [(each.st_ino, each.st_mtime_ns) for each in stats]

    count = len([each for each in photos.iterdir() if each.suffix in (".jpg", ".png")])
    with subprocess.Popen(
        [*command, "--no-kill"], cwd=folder, stdout=subprocess.PIPE, text=True
    ) as demo:
        serving = (re.search(r"Serving at (\S+);", line) for line in demo.stdout)
        address = next(found[1] for found in serving if found)
        (server,) = map(int, Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split())
        try:
            with grpc.insecure_channel(address) as channel:
                operations = operations_pb2_grpc.OperationsStub(channel)
                eventually(lambda: sum(map(len, finished(operations).values())) >= 2)
                accepted = finished(operations)
        finally:
            demo.kill()  # before the server, which it would start again
            os.kill(server, signal.SIGKILL)
    before = [stamps(names) for names in accepted.values()]

    again = subprocess.run(
        [*command, "--no-kill"], cwd=folder, capture_output=True, text=True, timeout=90, check=False
    )

    assert again.returncode == 0, again.stderr
    assert again.stdout.count("SUCCEEDED") == count
    assert all(name in again.stdout for name in accepted)
    assert [stamps(names) for names in accepted.values()] == before
