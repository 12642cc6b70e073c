"""What `outlast serve --processes` refuses, before and when it starts."""

import os
import re
import socket
import subprocess
import sys

import pytest

from outlast.cli.exit_codes import ExitCode


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory for what a command that is not refused would make."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments, **environment):
    """Run the command in a process of its own, which starts others."""
    return subprocess.run(
        [sys.executable, "-m", "outlast", "serve", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--processes", "0"), "'0' is not a whole number of at least 1"),
        (("--processes", "-1"), "'-1' is not a whole number of at least 1"),
        (("--processes", "two"), "'two' is not a whole number of at least 1"),
        (("--processes", "2", "--store", "memory:"), "a server of several processes depends on"),
        (("--processes", "2", "--listen", "unix:socket"), "cannot listen on one socket file"),
        (("--processes", "2", "--listen", "nowhere"), "'nowhere' is not host:port"),
        (("--processes", "2", "--listen", "0.0.0.0:0"), "can be reached from other machines"),
    ],
)
def test_what_several_processes_cannot_have_is_a_usage_error(run, folder, arguments, said):
    result = run("serve", "--script", *arguments)
    assert result.exit_code == ExitCode.USAGE
    assert said in re.sub(r"\s+", " ", result.stderr)
    assert list(folder.iterdir()) == []


def test_a_wrong_number_of_processes_in_the_environment_is_named_with_its_variable(run):
    result = run("serve", "--script", env={"OUTLAST_PROCESSES": "many"})
    assert result.exit_code == ExitCode.USAGE
    assert "'OUTLAST_PROCESSES'" in result.stderr


def test_one_process_may_keep_its_operations_in_memory_and_has_no_supervisor(run, monkeypatch):
    given = []
    monkeypatch.setattr(
        "outlast.cli.serving.serve_until_stopped", lambda _, config: given.append(config)
    )
    result = run("serve", "--script", "--processes", "1", "--store", "memory:")
    assert result.exit_code == ExitCode.OK
    assert [config.share_port for config in given] == [False]


def test_a_service_that_cannot_be_served_is_told_once_and_ends_all():
    result = command(
        "--service", "nowhere:Service", "--listen", "127.0.0.1:0", OUTLAST_PROCESSES="3"
    )
    assert result.returncode == ExitCode.CANNOT_SERVE
    assert result.stderr.count("there is no module 'nowhere'") == 1
    assert result.stdout == ""


def test_a_process_that_cannot_start_after_the_first_one_ends_all(folder):
    (folder / "single.py").write_text(
        "from pathlib import Path\n"
        "from outlast_script import ScriptService\n"
        "class Single(ScriptService):\n"
        "    def __init__(self):\n"
        "        Path('made').touch(exist_ok=False)\n"
    )
    result = command("--service", "single:Single", "--listen", "127.0.0.1:0", "--processes", "2")
    assert result.returncode == ExitCode.CANNOT_SERVE
    assert "service single:Single cannot be made: FileExistsError" in result.stderr
    assert result.stdout == ""


def test_a_port_that_is_taken_is_explained_also_when_its_owner_would_share_it():
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = command("--script", "--listen", address, "--processes", "2")
    assert result.returncode == ExitCode.CANNOT_SERVE
    assert f"cannot listen on {address}: Address already in use" in result.stderr
