"""`outlast serve`, in a process of its own, and the ways in which it refuses to start."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from outlast.cli.exit_codes import ExitCode
from outlast.engine.settings import EngineSettings

pytestmark = pytest.mark.usefixtures("service_folder")

SERVICE = """
import asyncio

import outlast
from outlastapi.script.v1 import script_pb2, script_pb2_grpc


class Greeter(script_pb2_grpc.ScriptServiceServicer):
    def __init__(self, greeting="plain"):
        self.greeting = greeting

    @classmethod
    def from_environment(cls, environment):
        return cls(environment.get("GREETING", "unset"))

    @outlast.long_running()
    async def RunScript(self, request, operation):
        return script_pb2.RunScriptResponse(text=self.greeting)

    @outlast.long_running()
    async def EraseScript(self, request, operation):
        await asyncio.Event().wait()


class Picky:
    def __init__(self):
        raise ValueError("no\\nway")


NOT_A_CLASS = 1
"""
MIXED = """
import outlast


class Good:
    pass


class Bad:
    @outlast.long_running()
    def Run(self, request, operation):
        pass
"""


@pytest.fixture
def service_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with modules that hold services."""
    (tmp_path / "greeting_service.py").write_text(SERVICE, encoding="utf-8")
    (tmp_path / "mixed_service.py").write_text(MIXED, encoding="utf-8")
    (tmp_path / "broken_service.py").write_text("1 / 0\n", encoding="utf-8")
    (tmp_path / "needy_service.py").write_text("import not_there_at_all\n", encoding="utf-8")
    (tmp_path / "empty_service.py").write_text("", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    return tmp_path


class Served:
    """A server process that has said that it is ready."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.ready_line = process.stdout.readline()
        assert self.ready_line.startswith("Ready at "), process.stderr.read()
        self.address = self.ready_line.split()[2].rstrip(",")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@contextmanager
def serving(*arguments: str, **environment: str) -> Iterator[Served]:
    process = subprocess.Popen(
        [sys.executable, "-m", "outlast", "serve", *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Served(process)
        finally:
            if process.poll() is None:
                process.kill()


GREETER = ("--service", "greeting_service:Greeter")
ANYWHERE = ("--listen", "127.0.0.1:0")


def test_a_served_operation_is_started_awaited_and_listed(run, service_folder):
    with serving(*GREETER, *ANYWHERE, GREETING="hello") as server:
        result = run("call", "ScriptService/RunScript", "--wait", "--address", server.address)
        assert result.exit_code == ExitCode.OK
        assert json.loads(result.stdout)["text"] == "hello"
        listed = run("operations", "list", "--address", server.address).stdout
        assert "\tSUCCEEDED\t" in listed
        assert server.stop() == ExitCode.OK
    assert (service_folder / "outlast.db").exists()


def test_the_script_service_is_served_when_asked_for(run):
    steps = [
        {"progress": {"completed": 1, "total": 2}},
        {"fail": {"code": 9, "message": "told to"}},
    ]
    with serving("--script", *ANYWHERE, "--store", "memory:") as server:
        result = run(
            "call", "ScriptService/RunScript", "--data", json.dumps({"steps": steps}), "--wait",
            "--address", server.address,
        )  # fmt: skip
        assert result.exit_code == ExitCode.OPERATION_FAILED
        assert "failed: told to (FAILED_PRECONDITION" in result.stderr
        got = run("operations", "list", "--json", "--address", server.address)
        progress = json.loads(got.stdout)["metadata"]["operation"]["progress"]
        assert progress["percent"] == 50
        server.stop()


def test_a_bad_request_is_explained_once(run):
    with serving("--script", *ANYWHERE, "--store", "memory:") as server:
        address = ("--address", server.address)
        result = run("operations", "list", "--filter", "bogus = 1", *address)
        assert result.exit_code == ExitCode.RPC_ERROR
        assert result.stderr.count("bogus") == result.stderr.splitlines()[0].count("bogus") > 0
        assert "INVALID_FILTER of outlastapi" in result.stderr
        server.stop()


@pytest.mark.parametrize("command", ["list", "retry"])
def test_a_filter_with_dead_letters_is_wrong_where_it_was_given(run, command):
    with serving("--script", *ANYWHERE, "--store", "memory:") as server:
        for filter_, position in {"a OR": 6, "nope = 1": 1, "(a OR b": 1, "a) OR (b": 2}.items():
            arguments = (command, "--dead", "--filter", filter_, "--address", server.address)
            result = run("operations", *arguments)
            assert result.exit_code == ExitCode.RPC_ERROR
            error, *_, sent = result.stderr.splitlines()
            assert f"(at character {position})" in error
            assert sent == f"  the filter that was sent: {filter_} AND dead_letter = true"
        result = run("operations", command, "-", "--filter", "a", "--address", server.address)
        assert result.exit_code == ExitCode.RPC_ERROR
        assert "every parent, is supported with `dead_letter = true` only" in result.stderr
        server.stop()


def test_the_ready_line_names_the_real_port_the_store_and_the_services():
    with serving(*GREETER, *ANYWHERE, "--store", "memory:") as server:
        assert not server.address.endswith(":0")
        assert "memory:" in server.ready_line
        assert "outlastapi.script.v1.ScriptService" in server.ready_line
        server.stop()
        assert server.process.stdout.read() == ""


def test_every_flag_can_come_from_the_environment(service_folder):
    environment = {
        "OUTLAST_SERVICE": "greeting_service:Greeter",
        "OUTLAST_LISTEN": "127.0.0.1:0",
        "OUTLAST_STORE": "elsewhere.db",
        "OUTLAST_GRACE": "1s",
        "OUTLAST_LEASE": "5s",
        "OUTLAST_CONCURRENCY": "2",
        "OUTLAST_LOG_LEVEL": "error",
    }
    with serving(**environment) as server:
        assert server.stop() == ExitCode.OK
        assert server.process.stderr.read() == ""
    assert (service_folder / "elsewhere.db").exists()


def test_the_help_names_an_environment_variable_for_every_flag(run):
    shown = run("serve", "--help").stdout
    flags = [word for line in shown.splitlines() for word in line.split()[:1] if word[:2] == "--"]
    for flag in flags:
        assert f"OUTLAST_{flag[2:].replace('-', '_').upper()}" in shown.replace("\n", "")


def test_what_was_running_when_the_server_stopped_is_there_when_it_starts_again(run):
    arguments = (*GREETER, *ANYWHERE, "--grace", "0s")
    with serving(*arguments) as server:
        started = run("call", "ScriptService/EraseScript", "--address", server.address)
        name = json.loads(started.stdout)["name"]
        assert server.stop() == ExitCode.OK
    with serving(*arguments) as server:
        assert run("operations", "get", name, "--address", server.address).exit_code == ExitCode.OK
        cancelled = run("operations", "cancel", name, "--address", server.address)
        assert cancelled.exit_code == ExitCode.OK
        waited = run("operations", "wait", name, "--address", server.address)
        assert waited.exit_code == ExitCode.OPERATION_CANCELLED
        server.stop()


@pytest.mark.parametrize(
    ("service", "says"),
    [
        ("no_such_module_here:Service", "there is no module 'no_such_module_here'"),
        ("greeting_service:Greter", "it has: Greeter, Picky"),
        ("greeting_service:NOT_A_CLASS", "there is no class 'NOT_A_CLASS'"),
        ("greeting_service:Picky", "cannot be made: ValueError: no way"),
        (
            "broken_service:Service",
            "module broken_service cannot be imported, for service broken_service:Service: ZeroDiv",
        ),
        (
            "needy_service:Service",
            "module needy_service cannot be imported, for service needy_service:Service: ModuleNot",
        ),
        (
            "mixed_service:Good",
            ": mixed_service.Bad.Run must be an async def",
        ),
        ("empty_service:Service", "it has no classes"),
        ("builtins:object", ""),
    ],
)
def test_a_service_that_cannot_be_served_is_named_in_one_line_without_a_traceback(
    run, service, says
):
    result = run("serve", "--service", service, *ANYWHERE, "--store", "memory:")
    assert result.exit_code == ExitCode.CANNOT_SERVE
    assert says in result.stderr
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr


def test_a_debugging_person_is_shown_where_a_service_broke():
    arguments = ["serve", "--service", "broken_service:Service", "--log-level", "debug"]
    result = subprocess.run(
        [sys.executable, "-m", "outlast", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == ExitCode.CANNOT_SERVE
    assert "broken_service.py" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--service", "no_colon"),
        (*GREETER, "--listen", "nowhere"),
        (*GREETER, "--listen", "127.0.0.1:70000"),
        (*GREETER, "--listen", "0.0.0.0:0"),
        (*GREETER, "--listen", "[::]:0"),
        (*GREETER, "--listen", "example.com:0"),
        (*GREETER, "--tls-cert", "greeting_service.py"),
        (*GREETER, "--concurrency", "0"),
        (*GREETER, "--grace", "never"),
        (*GREETER, "--grace", "soon"),
        (*GREETER, "--lease", "never"),
        (*GREETER, "--lease", "0s"),
        (*GREETER, "--set", "max_pending"),
        (*GREETER, "--store", ""),
        (*GREETER, "--store", "memory"),
        (*GREETER, "--store", "host=db password=hidden"),
        ("--service", "./greeting_service.py:Greeter"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_a_usage_error(run, arguments):
    result = run("serve", *arguments)
    assert result.exit_code == ExitCode.USAGE
    assert "Error: " in result.stderr


def test_a_wrong_number_in_the_environment_is_named_with_its_variable(run):
    result = run("serve", *GREETER, env={"OUTLAST_CONCURRENCY": "x"})
    assert result.exit_code == ExitCode.USAGE
    assert "'OUTLAST_CONCURRENCY'): 'x' is not a whole number of at least 1." in result.stderr


def test_listening_beyond_the_machine_needs_tls_or_a_promise(run):
    open_to_all = ("--listen", "0.0.0.0:0", "--service", "empty_service:Service")
    result = run("serve", *open_to_all)
    assert result.exit_code == ExitCode.USAGE
    assert "--tls-cert" in result.stderr
    assert "--insecure" in result.stderr
    promised = run("serve", *open_to_all, "--insecure")
    assert promised.exit_code == ExitCode.CANNOT_SERVE  # it got as far as the service


def test_what_is_easily_confused_is_refused_with_what_is_meant(run):
    stored = run("serve", *GREETER, "--store", "memory")
    assert "memory: has a colon" in stored.stderr
    named = run("serve", *GREETER, "--store", "host=db password=hidden")
    assert "postgresql://" in named.stderr
    assert "hidden" not in named.stderr
    served = run("serve", "--service", "./a/greeting_service.py:Greeter")
    assert "a.greeting_service:Greeter" in served.stderr


def test_a_file_without_certificates_is_not_taken_for_a_server_that_is_away(run, tmp_path):
    garbage = tmp_path / "ca.pem"
    garbage.write_text("no certificate", encoding="utf-8")
    result = run("operations", "list", "--ca-cert", str(garbage))
    assert result.exit_code == ExitCode.USAGE
    assert f"--ca-cert: {garbage} holds no certificates in PEM" in result.stderr
    assert "no server" not in result.stderr


def test_a_port_that_is_taken_is_explained(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = run("serve", *GREETER, "--listen", address, "--store", "memory:")
    assert result.exit_code == ExitCode.CANNOT_SERVE
    assert address in result.stderr
    assert "in use" in result.stderr


def test_a_store_that_is_no_database_is_explained_and_left_alone(run, service_folder):
    file = service_folder / "letter.txt"
    file.write_text("Dear Sir or Madam, " * 100, encoding="utf-8")
    result = run("serve", *GREETER, *ANYWHERE, "--store", str(file))
    assert result.exit_code == ExitCode.CANNOT_SERVE
    assert "letter.txt" in result.stderr
    assert "Traceback" not in result.stderr
    assert file.read_text(encoding="utf-8").startswith("Dear Sir or Madam")


def test_a_server_that_breaks_down_has_an_exit_code_and_logs_why(run, monkeypatch, caplog):
    class BrokenServer:
        def __init__(self, **_):
            raise RuntimeError("out of luck")

    monkeypatch.setattr("outlast.cli.serving.Server", BrokenServer)
    result = run("serve", *GREETER, *ANYWHERE)
    assert result.exit_code == ExitCode.CANNOT_SERVE
    assert "broke down: out of luck" in result.stderr
    assert "BrokenServer" not in result.stderr
    assert caplog.records[-1].exc_info is not None


@pytest.fixture
def tls_files(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = tmp_path / "server.pem", tmp_path / "server.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


def test_a_server_with_tls_is_called_with_its_authority_and_not_without(run, tls_files):
    certificate, key = map(str, tls_files)
    encrypted = ("--tls-cert", certificate, "--tls-key", key)
    with serving(*GREETER, *ANYWHERE, *encrypted, "--store", "memory:") as server:
        address = server.address
        called = run("operations", "list", "--address", address, "--ca-cert", certificate)
        assert called.exit_code == ExitCode.OK
        distrusting = run("operations", "list", "--address", address, "--tls")
        assert distrusting.exit_code == ExitCode.UNREACHABLE
        assert "--ca-cert" in distrusting.stderr
        assert f"TLS failed with the server at {address}" in distrusting.stderr
        in_the_clear = run("operations", "list", "--address", address)
        assert in_the_clear.exit_code == ExitCode.UNREACHABLE
        assert "--tls" in in_the_clear.stderr
        server.stop()


def test_set_wins_over_the_option_of_its_own_and_durations_without_a_unit_are_seconds(
    run, monkeypatch
):
    given = []
    monkeypatch.setattr(
        "outlast.cli.serving.serve_until_stopped", lambda _, config: given.append(config.engine)
    )
    options = ["--set", "lease=7", "--lease", "9s", "--set", "max_wait=1m"]
    assert run("serve", *GREETER, *options).exit_code == ExitCode.OK
    assert given == [
        EngineSettings(concurrency=64, lease=timedelta(seconds=7), max_wait=timedelta(minutes=1))
    ]
