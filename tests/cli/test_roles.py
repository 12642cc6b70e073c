"""Roles and choices of methods that make no sense are refused, and why is said."""

import re
import socket

import pytest

from outlast.cli.exit_codes import ExitCode

RUN = "outlastapi.script.v1.ScriptService/RunScript"
ERASE = "outlastapi.script.v1.ScriptService/EraseScript"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory for what a command that is not refused would make."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("serve", "--script", "--no-execute", "--store", "memory:"), "no other process sees"),
        (("worker", "--script", "--store", "memory:"), "no other process sees"),
        (("worker", "--script", "--store", "memory"), "memory: has a colon"),
        (("worker",), "no service: give --service"),
        (("worker", "--script", "--listen", "nowhere"), "'nowhere' is not host:port"),
        (("serve", "--script", "--no-execute", "--method", RUN), "nothing is run here"),
        (("serve", "--script", "--no-execute", "--except-method", RUN), "nothing is run here"),
        (
            ("worker", "--script", "--method", RUN, "--except-method", ERASE),
            "--method and --except-method: give one of them",
        ),
    ],
)
def test_a_role_that_makes_no_sense_is_a_usage_error(run, folder, arguments, said):
    result = run(*arguments)
    assert result.exit_code == ExitCode.USAGE
    assert said in re.sub(r"\s+", " ", result.stderr)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("role", ["serve", "worker"])
@pytest.mark.parametrize("option", ["--method", "--except-method"])
@pytest.mark.parametrize("name", ["ScriptService/RunScript", f"{RUN}s", "RunScript", ""])
def test_a_method_that_no_service_has_is_refused_with_those_that_there_are(run, role, option, name):
    result = run(role, "--script", "--listen", "127.0.0.1:0", option, RUN, option, name)
    assert result.exit_code == ExitCode.CANNOT_SERVE
    assert result.stderr == (
        f"Error: no service here has a long-running method {name!r}; there are: {ERASE}, {RUN}\n"
    )


def test_leaving_out_every_method_is_refused(run):
    left_out = ("--except-method", RUN, "--except-method", ERASE)
    result = run("worker", "--script", *left_out)
    assert result.exit_code == ExitCode.CANNOT_SERVE
    assert "no methods are left to run" in result.stderr


def test_a_worker_is_told_its_methods_by_the_environment_too(run):
    result = run("worker", "--script", env={"OUTLAST_METHOD": f"{RUN} nowhere.v1.Service/Do"})
    assert result.exit_code == ExitCode.CANNOT_SERVE
    assert "long-running method 'nowhere.v1.Service/Do'" in result.stderr


def test_a_port_for_health_checks_that_is_taken_is_explained(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = run("worker", "--script", "--listen", address)
    assert result.exit_code == ExitCode.CANNOT_SERVE
    assert f"cannot listen on {address}: Address already in use" in result.stderr


def test_a_worker_answers_health_checks_of_other_machines_without_a_promise(run, monkeypatch):
    given = []
    monkeypatch.setattr(
        "outlast.cli.serving.serve_until_stopped", lambda _, config: given.append(config)
    )
    assert run("worker", "--script", "--listen", "0.0.0.0:50052").exit_code == ExitCode.OK
    assert [(config.listen, config.api) for config in given] == [("0.0.0.0:50052", False)]


def test_an_address_of_servers_is_not_taken_by_workers_of_the_same_environment(run, monkeypatch):
    given = []
    monkeypatch.setattr(
        "outlast.cli.serving.serve_until_stopped", lambda _, config: given.append(config.listen)
    )
    shared = {"OUTLAST_LISTEN": "127.0.0.1:50051"}
    assert run("serve", "--script", env=shared).exit_code == ExitCode.OK
    assert run("worker", "--script", env=shared).exit_code == ExitCode.OK
    both = shared | {"OUTLAST_WORKER_LISTEN": "127.0.0.1:50052"}
    assert run("worker", "--script", env=both).exit_code == ExitCode.OK
    assert given == ["127.0.0.1:50051", None, "127.0.0.1:50052"]
