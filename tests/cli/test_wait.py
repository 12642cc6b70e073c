"""`outlast operations wait`, against servers of several kinds, on a terminal and off it."""

import json
import shlex
import subprocess
import sys
import threading

from google.longrunning import operations_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from outlastapi.v1.operation_metadata_pb2 import OperationMetadata

from outlast.cli.exit_codes import ExitCode

NAME = "operations/a"


def running(types, completed: int) -> operations_pb2.Operation:
    metadata = types.metadata(
        state=OperationMetadata.RUNNING,
        progress={"completed": completed, "total": 4, "percent": completed * 25, "message": "busy"},
    )
    return operations_pb2.Operation(name=NAME, metadata=metadata)


def test_wait_prints_each_change_on_stderr_and_the_result_on_stdout(run, foreign, types):
    foreign.put(running(types, 1))
    foreign.on_wait = lambda _: foreign.succeed(NAME, "hello")
    result = run("operations", "wait", NAME, server=foreign)
    assert result.exit_code == ExitCode.OK
    assert json.loads(result.stdout) == {
        "@type": "type.googleapis.com/foreign.v1.EchoReply",
        "text": "hello",
    }
    assert result.stderr.splitlines() == [
        "operations/a: RUNNING 25% (1/4) busy",
        "operations/a: SUCCEEDED",
    ]


def test_wait_says_why_there_is_another_attempt(run, foreign, types):
    metadata = types.metadata(
        state=OperationMetadata.PENDING,
        attempt=1,
        max_attempts=5,
        last_error={"code": code_pb2.UNAVAILABLE, "message": "out of paper"},
        next_attempt_time={"seconds": 1_700_000_000},
    )
    foreign.add(NAME, metadata=metadata)
    foreign.on_wait = lambda _: foreign.succeed(NAME, "hello")
    result = run("operations", "wait", NAME, server=foreign)
    assert result.stderr.splitlines()[0] == (
        "operations/a: PENDING (attempt 1 of 5 failed: out of paper (UNAVAILABLE); "
        "the next one is due at 2023-11-14 22:13:20Z)"
    )


def test_wait_uses_wait_operation_and_does_not_poll(run, foreign):
    foreign.add(NAME)
    foreign.on_wait = lambda _: foreign.succeed(NAME, "hello")
    run("operations", "wait", NAME, server=foreign)
    assert foreign.called == ["GetOperation", "WaitOperation"]


def test_wait_polls_a_server_that_has_no_wait_operation(run, bare):
    bare.add(NAME)

    def succeed_when_polled() -> None:
        bare.await_call("GetOperation", times=3)
        bare.succeed(NAME, "hello")

    other = threading.Thread(target=succeed_when_polled)
    other.start()
    result = run("operations", "wait", NAME, server=bare)
    other.join()
    assert result.exit_code == ExitCode.OK
    assert bare.called.count("WaitOperation") == 1
    assert "UNFINISHED" in result.stderr
    assert json.loads(result.stdout)["value"] == "CgVoZWxsbw=="


def test_an_operation_without_a_response_prints_an_empty_document(run, foreign):
    foreign.add(NAME, done=True)
    result = run("operations", "wait", NAME, server=foreign)
    assert result.exit_code == ExitCode.OK
    assert result.stdout == "{}\n"


def test_a_failed_operation_exits_with_its_own_code_and_names_the_fields(run, foreign):
    error = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message="not a photo")
    error.details.add().Pack(error_details_pb2.ErrorInfo(reason="NO_PHOTO", domain="foreign"))
    error.details.add().Pack(
        error_details_pb2.BadRequest(
            field_violations=[{"field": "source.uri", "description": "is a text"}]
        )
    )
    foreign.add(NAME, done=True, error=error)
    result = run("operations", "wait", NAME, server=foreign)
    assert result.exit_code == ExitCode.OPERATION_FAILED
    assert result.stdout == ""
    assert result.stderr.splitlines()[1:] == [
        "Error: operations/a failed: not a photo (INVALID_ARGUMENT, NO_PHOTO of foreign)",
        "  source.uri: is a text",
    ]


def test_a_cancelled_operation_exits_with_another_code(run, foreign):
    foreign.add(NAME)
    error = status_pb2.Status(code=code_pb2.CANCELLED, message="by hand")
    foreign.on_wait = lambda _: foreign.add(NAME, done=True, error=error)
    result = run("operations", "wait", NAME, server=foreign)
    assert result.exit_code == ExitCode.OPERATION_CANCELLED
    assert "operations/a was cancelled: by hand (CANCELLED)" in result.stderr


def test_json_prints_the_finished_operation_only_also_when_it_failed(run, foreign):
    error = status_pb2.Status(code=code_pb2.ABORTED, message="lost a race")
    foreign.add(NAME)
    foreign.on_wait = lambda _: foreign.add(NAME, done=True, error=error)
    result = run("operations", "wait", NAME, "--json", server=foreign)
    assert result.exit_code == ExitCode.OPERATION_FAILED
    assert json.loads(result.stdout) == {
        "name": NAME,
        "done": True,
        "error": {"code": 10, "message": "lost a race"},
    }
    assert result.stderr.startswith("Error: ")


def test_the_timeout_leaves_the_operation_alone_and_has_a_code_of_its_own(run, foreign):
    foreign.add(NAME)
    result = run("operations", "wait", NAME, "--timeout", "50ms", server=foreign)
    assert result.exit_code == ExitCode.TIMEOUT
    assert "operations/a is not done after 0.05 s; it goes on" in result.stderr
    assert "outlast operations wait operations/a" in result.stderr
    assert not foreign.operations[NAME].done
    assert "CancelOperation" not in foreign.called


def test_the_advice_reaches_the_same_server_and_shows_no_header(run, foreign):
    foreign.add(NAME)
    given = ("--address", foreign.address)
    waited = run("operations", "wait", NAME, "--timeout", "50ms", *given, "-H", "key: secret")
    assert waited.exit_code == ExitCode.TIMEOUT
    assert waited.stderr.splitlines()[-1] == (
        f"  wait again with: outlast operations wait {NAME} --address {foreign.address}"
    )
    cancelled = run("operations", "cancel", NAME, *given, "-H", "key: secret")
    assert cancelled.stdout == (
        "Cancellation requested. See the outcome with: "
        f"outlast operations wait {NAME} --address {foreign.address}\n"
    )
    assert "secret" not in waited.output + cancelled.output


def test_the_advice_leaves_out_what_came_from_the_environment(run, foreign):
    foreign.add(NAME)
    result = run("operations", "wait", NAME, "--timeout", "50ms", server=foreign)
    assert result.stderr.splitlines()[-1] == f"  wait again with: outlast operations wait {NAME}"


def test_the_advice_has_the_options_of_tls_and_can_be_pasted(run, tmp_path):
    authorities = tmp_path / "our authorities.pem"
    authorities.touch()
    given = ("--address", "127.0.0.1:1", "--tls", "--ca-cert", str(authorities))
    result = run("operations", "list", NAME, *given)  # refused, with advice, before it connects
    assert result.exit_code == ExitCode.USAGE
    advice = result.stderr.partition("outlast ")[2]
    assert shlex.split(advice) == ["operations", "get", NAME, *given]


def test_an_operation_that_vanishes_while_waiting_is_not_found(run, foreign):
    foreign.add(NAME)
    foreign.on_wait = lambda _: foreign.operations.pop(NAME)
    result = run("operations", "wait", NAME, server=foreign)
    assert result.exit_code == ExitCode.NOT_FOUND


def test_waiting_survives_a_restart_of_the_server(run, serve_foreign):
    with serve_foreign() as before:
        before.add(NAME)
        results = []
        waiting = threading.Thread(
            target=lambda: results.append(run("operations", "wait", NAME, server=before))
        )
        waiting.start()
        before.await_call("WaitOperation")
    with serve_foreign(address=before.address) as after:
        after.succeed(NAME, "hello")
        waiting.join()
    assert results[0].exit_code == ExitCode.OK
    assert "the server does not answer; trying again" in results[0].stderr
    assert json.loads(results[0].stdout)["text"] == "hello"


def test_wait_begins_before_its_server(serve_foreign):
    with serve_foreign() as before:
        address = before.address
    with subprocess.Popen(
        [sys.executable, "-m", "outlast", "operations", "wait", NAME, "--address", address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as waiting:
        assert waiting.stderr.readline().startswith(
            f"the server does not answer; trying again: no server at {address}"
        )
        with serve_foreign(address=address) as server:
            server.succeed(NAME, "hello")
            shown, said = waiting.communicate(timeout=30)
    assert waiting.returncode == ExitCode.OK
    assert json.loads(shown)["text"] == "hello"
    assert said == "operations/a: SUCCEEDED\n"
