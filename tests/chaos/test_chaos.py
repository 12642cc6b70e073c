"""A short run of everything, and one that is broken off."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.interrupts import interrupts_heeded

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture
def chaos(tmp_path):
    """Run the program with a folder for what it keeps."""

    def chaos(seconds, *options):
        command = [sys.executable, "-m", "tests.chaos", "--seconds", str(seconds), "--seed", "7"]
        command += options
        with interrupts_heeded():
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | {"TMPDIR": str(tmp_path)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )

    return chaos


@pytest.mark.timeout(200)
@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_servers_that_are_killed_and_paused_under_load_keep_every_promise(
    chaos, tmp_path, store, postgres_of
):
    if store == "postgres":
        postgres_of("18")  # or this test is skipped
    with chaos(7, "--store", store) as process:
        output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    for line in output.splitlines():
        if listed := re.match(r"(\d+) [\w ]+: (.*)", line):
            counts = re.findall(r"(?:^|, )(\d+) ", listed[2])
            assert int(listed[1]) == sum(map(int, counts)), line
    (operations,) = re.findall(r"^(\d+) operations: \d+ succeeded, ", output, re.MULTILINE)
    (troubles,) = re.findall(r"^(\d+) troubles of servers: \d+ killed ", output, re.MULTILINE)
    assert int(operations) > 10
    assert int(troubles) > 0
    assert " calls: " in output
    assert output.endswith("\n0 anomalies\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_a_load_that_tests_nothing_is_a_usage_error(chaos, tmp_path, seconds):
    with chaos(seconds) as process:
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 2, output
    assert f"argument --seconds: {seconds} is not a number of seconds" in output
    assert list(tmp_path.iterdir()) == []


def servers(folder):
    """Return the processes that work in a folder, also if it has been removed."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is not ours
            if str((process / "cwd").readlink()).startswith(str(folder)):
                found.append(process.name)
    return found


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_run_that_is_broken_off_leaves_no_server_behind(chaos, tmp_path, number):
    with chaos(600) as process:
        folder = tmp_path / Path(process.stdout.readline().split()[-1]).name
        while len(servers(folder)) < 3:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert servers(folder) == []
    assert list(tmp_path.iterdir()) == []
