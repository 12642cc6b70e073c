"""The command as a whole."""

import subprocess
import sys

import pytest

import outlast
from outlast.cli.exit_codes import ExitCode


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_an_error_names_the_variable_only_if_the_value_came_from_there(run, monkeypatch):
    assert "(env var" not in run("serve", "--lease", "never").stderr
    monkeypatch.setenv("OUTLAST_LEASE", "never")
    assert "'--lease' (env var: 'OUTLAST_LEASE')" in run("serve").stderr


def test_help_documents_every_exit_code(run):
    shown = run("--help").stdout
    for code in ExitCode:
        assert f"{code.value:>5}  {code.meaning}" in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["serve", "--help"],
        ["worker", "--help"],
        ["call", "--help"],
        ["operations", "wait", "--help"],
    ],
    ids=" ".join,
)
def test_help_does_without_grpc(arguments):
    script = f"""
import sys
from outlast.cli.main import main
try:
    main({arguments!r})
except SystemExit as stop:
    assert stop.code == 0
assert "grpc" not in sys.modules, "grpc was imported"
"""
    result = python("-c", script)
    assert result.returncode == 0, result.stderr


def test_the_package_runs_as_a_module_and_knows_its_version():
    result = python("-m", "outlast", "--version")
    assert result.stdout == f"outlast {outlast.__version__}\n"


def test_an_unknown_command_is_a_usage_error(run):
    assert run("frobnicate").exit_code == ExitCode.USAGE
