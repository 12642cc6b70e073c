"""`outlast operations list|get|cancel|delete`, against servers of several kinds."""

import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from outlastapi.v1.operation_metadata_pb2 import OperationMetadata

from outlast.cli.exit_codes import ExitCode

UNKNOWN = any_pb2.Any(type_url="example.com/nobody.v1.Knows", value=b"\x08\x01")


def test_list_prints_a_line_with_tabs_for_each_operation(run, foreign, types):
    foreign.add(
        "operations/a",
        metadata=types.metadata(
            state=OperationMetadata.RUNNING,
            verb="foreign.v1.EchoService/Start",
            progress={"completed": 1, "total": 4, "percent": 25, "stage": "decode"},
            create_time={"seconds": 1_700_000_000},
        ),
    )
    foreign.succeed("operations/b", "done")
    result = run("operations", "list", server=foreign)
    assert result.exit_code == ExitCode.OK
    assert result.stdout.splitlines() == [
        "operations/a\tRUNNING\t25% (1/4) decode\tforeign.v1.EchoService/Start\t2023-11-14 22:13:20Z",
        "operations/b\tSUCCEEDED\t\t\t",
    ]


def test_list_follows_pages_up_to_the_limit_and_says_that_there_are_more(run, foreign):
    for number in range(5):
        foreign.add(f"operations/{number}")
    result = run("operations", "list", "--limit", "3", server=foreign)
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == [
        "operations/0",
        "operations/1",
        "operations/2",
    ]
    assert result.stderr == "There are more than 3: give a higher --limit, or --all.\n"
    assert foreign.called == ["ListOperations"] * 2


def test_list_all_follows_every_page(run, foreign):
    for number in range(5):
        foreign.add(f"operations/{number}")
    result = run("operations", "list", "--all", "--json", server=foreign)
    documents = [json.loads(line) for line in result.stdout.splitlines()]
    assert [document["name"] for document in documents] == [f"operations/{n}" for n in range(5)]
    assert result.stderr == ""


def test_list_all_and_a_limit_are_not_both_taken(run, foreign):
    result = run("operations", "list", "--all", "--limit", "3", server=foreign)
    assert result.exit_code == ExitCode.USAGE
    assert "--limit and --all" in result.stderr
    assert foreign.called == []


def test_list_passes_on_parent_filter_and_headers(run, foreign):
    foreign.add("projects/p/operations/1")
    foreign.add("operations/2")
    result = run(
        "operations", "list", "projects/p", "--filter", "done = false", "-H", "X-Tenant: acme",
        server=foreign,
    )  # fmt: skip
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == [
        "projects/p/operations/1"
    ]
    assert foreign.filters == ["done = false"]
    assert foreign.headers["x-tenant"] == "acme"
    assert foreign.headers["x-goog-request-params"] == "name=projects%2Fp"


@pytest.mark.parametrize("tokens", [["again"], ["a", "b", "c"]], ids=len)
def test_list_stops_when_a_server_gives_the_same_pages_for_ever(run, foreign, tokens):
    foreign.empty_pages = itertools.cycle(tokens)
    result = run("operations", "list", "--all", server=foreign)
    assert result.exit_code == ExitCode.RPC_ERROR
    assert "same pages" in result.stderr
    assert len(foreign.filters) == len(tokens) + 1


def test_list_stops_when_a_server_gives_empty_pages_for_ever(run, foreign):
    foreign.empty_pages = map(str, itertools.count())
    result = run("operations", "list", "--all", server=foreign)
    assert result.exit_code == ExitCode.RPC_ERROR
    assert "1000 empty pages in a row" in result.stderr
    assert len(foreign.filters) == 1000


def test_list_goes_on_over_pages_that_a_filter_left_empty(run, foreign):
    foreign.add("operations/a")
    foreign.empty_pages = map(str, range(-998, 1))
    result = run("operations", "list", "--all", server=foreign)
    assert (result.exit_code, result.stderr) == (ExitCode.OK, "")
    assert result.stdout.startswith("operations/a\t")


def test_get_prints_what_is_known_line_by_line(run, foreign, types):
    foreign.add("operations/a", metadata=types.metadata(state=OperationMetadata.PENDING))
    result = run("operations", "get", "operations/a", server=foreign)
    assert result.stdout.splitlines() == [
        "name: operations/a",
        "state: PENDING",
        'metadata: {"@type": "type.googleapis.com/foreign.v1.EchoMetadata", "note": "deep inside"}',
    ]


def test_get_prints_what_the_framework_says_in_words_only(run, bare):
    metadata = any_pb2.Any()
    moment = {"seconds": 1_700_000_000}
    metadata.Pack(
        OperationMetadata(
            state=OperationMetadata.RUNNING,
            verb="a.Service/Method",
            target="shelves/1",
            progress={"completed": 1, "total": 2, "percent": 50, "estimated_end_time": moment},
            update_time=moment,
            cancel_requested_time=moment,
            expire_time=moment,
        )
    )
    bare.add("operations/a", metadata=metadata)
    result = run("operations", "get", "operations/a", server=bare)
    assert result.stdout.splitlines() == [
        "name: operations/a",
        "state: RUNNING",
        "method: a.Service/Method",
        "target: shelves/1",
        "updated: 2023-11-14 22:13:20Z",
        "cancel requested: 2023-11-14 22:13:20Z",
        "expires: 2023-11-14 22:13:20Z",
        "progress: 50% (1/2)",
        "estimated end: 2023-11-14 22:13:20Z",
    ]


def test_get_prints_foreign_metadata_whole(run, foreign, types):
    foreign.add("operations/a", metadata=types.packed("PlainMetadata", note="their own"))
    result = run("operations", "get", "operations/a", server=foreign)
    assert '"note": "their own"' in result.stdout.splitlines()[-1]


def test_get_says_how_the_attempts_went(run, foreign, types):
    metadata = types.metadata(
        state=OperationMetadata.FAILED,
        attempt=5,
        max_attempts=5,
        start_time={"seconds": 1_700_000_000},
        end_time={"seconds": 1_700_000_060},
        last_error={"code": code_pb2.ABORTED, "message": "lost a race"},
        dead_letter=True,
    )
    error = status_pb2.Status(code=code_pb2.ABORTED, message="lost a race")
    foreign.add("operations/a", done=True, metadata=metadata, error=error)
    result = run("operations", "get", "operations/a", server=foreign)
    assert result.stdout.splitlines()[:7] == [
        "name: operations/a",
        "state: FAILED",
        "started: 2023-11-14 22:13:20Z",
        "ended: 2023-11-14 22:14:20Z",
        "attempt: 5 of 5",
        "dead letter: yes",
        "error: lost a race (ABORTED)",
    ]


def test_get_of_a_failed_operation_succeeds_and_shows_the_error(run, foreign):
    error = status_pb2.Status(code=code_pb2.ABORTED, message="lost a race")
    error.details.add().Pack(error_details_pb2.ErrorInfo(reason="RACE", domain="foreign"))
    foreign.add("operations/a", done=True, error=error)
    result = run("operations", "get", "operations/a", server=foreign)
    assert result.exit_code == ExitCode.OK
    assert "state: FAILED" in result.stdout
    assert "error: lost a race (ABORTED, RACE of foreign)" in result.stdout


def test_get_json_resolves_types_through_reflection(run, foreign):
    foreign.succeed("operations/a", "hello")
    result = run("operations", "get", "operations/a", "--json", server=foreign)
    assert json.loads(result.stdout) == {
        "name": "operations/a",
        "done": True,
        "response": {"@type": "type.googleapis.com/foreign.v1.EchoReply", "text": "hello"},
    }


def test_types_that_cannot_be_resolved_are_shown_as_base64(run, bare):
    bare.succeed("operations/a", "hello")
    result = run("operations", "get", "operations/a", "--json", server=bare)
    assert json.loads(result.stdout)["response"] == {
        "@type": "type.googleapis.com/foreign.v1.EchoReply",
        "value": "CgVoZWxsbw==",
    }


def test_our_own_types_are_known_without_reflection(run, bare):
    metadata = any_pb2.Any()
    metadata.Pack(OperationMetadata(state=OperationMetadata.RUNNING, attempt=2))
    bare.add("operations/a", metadata=metadata)
    result = run("operations", "get", "operations/a", "--json", server=bare)
    assert json.loads(result.stdout)["metadata"] == {
        "@type": "type.googleapis.com/outlastapi.v1.OperationMetadata",
        "state": "RUNNING",
        "attempt": 2,
    }


def test_an_unknown_operation_is_not_found_with_its_reason(run, foreign):
    result = run("operations", "get", "operations/none", server=foreign)
    assert result.exit_code == ExitCode.NOT_FOUND
    assert result.stderr == (
        "Error: operation 'operations/none' not found (NOT_FOUND, OPERATION_NOT_FOUND of foreign)\n"
    )


def test_cancel_asks_and_delete_forgets(run, foreign):
    foreign.add("operations/a")
    result = run("operations", "cancel", "operations/a", server=foreign)
    assert result.exit_code == ExitCode.OK
    assert result.stdout.startswith("Cancellation requested. See the outcome with: outlast ")
    assert foreign.operations["operations/a"].error.code == code_pb2.CANCELLED
    assert run("operations", "delete", "operations/a", server=foreign).exit_code == ExitCode.OK
    assert foreign.operations == {}
    result = run("operations", "delete", "operations/a", server=foreign)
    assert result.exit_code == ExitCode.NOT_FOUND


def test_cancel_says_of_what_is_done_that_it_is(run, foreign):
    foreign.succeed("operations/a", "done")
    result = run("operations", "cancel", "operations/a", server=foreign)
    assert result.exit_code == ExitCode.OK
    assert result.stdout == (
        "operations/a is done already (SUCCEEDED): nothing is left to cancel.\n"
    )
    assert foreign.operations["operations/a"].HasField("response")


def test_delete_says_of_what_is_not_done_that_it_is_not_cancelled(run, foreign, types):
    foreign.succeed("operations/a", "done")
    foreign.add("operations/b", metadata=types.metadata(state=OperationMetadata.RUNNING))
    done = run("operations", "delete", "operations/a", server=foreign)
    assert done.stdout == "Deleted operations/a.\n"
    running = run("operations", "delete", "operations/b", server=foreign)
    assert running.stdout.startswith("Deleted operations/b.\nIt was RUNNING, and is not cancelled;")


@pytest.mark.parametrize("name", ["operations/a", "p/1/operations/a"])
@pytest.mark.parametrize(
    ("command", "advice"),
    [(("list",), "get"), (("list", "--dead"), "get"), (("retry", "--dead"), "retry")],
)
def test_the_name_of_an_operation_is_no_parent(run, foreign, command, advice, name):
    result = run("operations", *command, name, server=foreign)
    assert result.exit_code == ExitCode.USAGE
    assert f"{name} is no PARENT but an operation" in result.stderr
    assert f"outlast operations {advice} {name}" in result.stderr
    assert foreign.called == []


@pytest.mark.parametrize("command", ["list", "get", "wait", "cancel", "delete"])
def test_without_a_server_every_command_says_how_to_start_one(run, command):
    arguments = [] if command == "list" else ["operations/a"]
    result = run(
        "operations", command, *arguments, "--timeout", "500ms", "--address", "127.0.0.1:1"
    )
    assert result.exit_code == ExitCode.UNREACHABLE
    assert (
        "Error: no server at 127.0.0.1:1: start one with 'outlast serve', or give --address\n"
    ) in result.stderr
    assert ("trying again" in result.stderr) is (command == "wait")


def test_tls_with_a_server_that_has_none_is_told_from_no_server(foreign):
    result = subprocess.run(
        [sys.executable, "-m", "outlast", "operations", "list", "--tls"],
        env={**os.environ, "OUTLAST_ADDRESS": foreign.address},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == ExitCode.UNREACHABLE
    first, _, last = result.stderr.splitlines()  # no line of gRPC's own among them
    assert first == f"Error: TLS failed with the server at {foreign.address}"
    assert last == "  it does not speak TLS: leave out --tls and --ca-cert"


def test_a_url_is_refused_as_an_address(run):
    result = run("operations", "list", "--address", "http://127.0.0.1:1")
    assert result.exit_code == ExitCode.USAGE
    assert "'--address': leave out http://: give 127.0.0.1:1." in result.stderr


@pytest.mark.parametrize("command", ["list", "get", "cancel", "delete", "attempts", "retry"])
def test_one_answer_is_not_waited_for_longer_than_the_help_says(run, command):
    result = run("operations", command, "operations/a", "--timeout", "31s")
    assert result.exit_code == ExitCode.USAGE
    assert "'--timeout': must be 30 s at most." in result.stderr
    shown = " ".join(run("operations", command, "--help").stdout.split())
    assert "--timeout DURATION How long to wait for each answer" in shown


def test_a_server_without_the_service_is_told_from_one_that_is_not_there(run, serve_foreign):
    with serve_foreign(with_operations=False) as server:
        result = run("operations", "list", server=server)
    assert result.exit_code == ExitCode.RPC_ERROR
    assert "UNIMPLEMENTED" in result.stderr
    assert "--address" in result.stderr


def test_missing_credentials_are_explained(run, foreign):
    foreign.failure = (status_pb2.Status(code=code_pb2.UNAUTHENTICATED, message="who are you?"),)
    result = run("operations", "list", server=foreign)
    assert result.exit_code == ExitCode.RPC_ERROR
    assert "who are you? (UNAUTHENTICATED)" in result.stderr
    assert "-H 'authorization: Bearer" in result.stderr


def test_a_server_that_is_there_but_not_ready_says_when_to_come_back(run, foreign):
    foreign.failure = (
        status_pb2.Status(code=code_pb2.UNAVAILABLE, message="draining"),
        error_details_pb2.RetryInfo(retry_delay={"seconds": 1, "nanos": 500_000_000}),
    )
    result = run("operations", "list", server=foreign)
    assert result.exit_code == ExitCode.RPC_ERROR
    assert result.stderr == "Error: draining (UNAVAILABLE)\n  try again in 1.5 s\n"


def test_a_server_that_gives_no_answer_in_time_is_a_timeout(run, foreign):
    foreign.failure = (status_pb2.Status(code=code_pb2.DEADLINE_EXCEEDED, message="too slow"),)
    result = run("operations", "get", "operations/a", server=foreign)
    assert result.exit_code == ExitCode.TIMEOUT
    assert f"from {foreign.address}: too slow (DEADLINE_EXCEEDED)" in result.stderr


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    "arguments",
    [
        ("call", "EchoService/Echo"),
        ("operations", "list"),
        ("operations", "get", "operations/a"),
        ("operations", "wait", "operations/a"),
        ("operations", "cancel", "operations/a"),
        ("operations", "delete", "operations/a"),
        ("operations", "attempts", "operations/a"),
        ("operations", "retry", "operations/a"),
        ("operations", "retry", "--dead"),
    ],
    ids=" ".join,
)
def test_a_silent_server_is_given_up_after_the_timeout(run, silent, arguments):
    started = time.monotonic()
    result = run(*arguments, "--timeout", "100ms", "--address", silent)
    assert time.monotonic() - started < 5  # without --timeout it is 10 s at least
    assert result.exit_code == ExitCode.TIMEOUT
    assert silent in result.stderr


def test_control_characters_from_a_server_do_not_reach_the_terminal(run, foreign, types):
    name = "operations/\x1b]0;owned\x07\u202eevil\n\x9b2J"
    foreign.add(
        name,
        metadata=types.metadata(verb="\x1b[31mred", progress={"message": "\x1b[2Jgone"}),
        error=status_pb2.Status(code=3, message="\x1b[5mblink"),
        done=True,
    )
    for arguments in (("list",), ("get", name), ("get", name, "--json"), ("wait", name)):
        result = run("operations", *arguments, server=foreign)
        shown = result.stdout + result.stderr
        assert "evil" in shown
        assert all(c.isprintable() or c in "\n\t" for c in shown)
        assert "\nwait" not in shown


def test_a_broken_header_is_a_usage_error(run):
    for header in ("novalue", "a b:c", "grpc-timeout: 1S", "key-bin: AA", "key: \x07"):
        result = run("operations", "list", "-H", header)
        assert result.exit_code == ExitCode.USAGE, header


def test_a_reader_that_has_had_enough_is_no_reason_for_a_traceback(foreign):
    foreign.add("operations/a")
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run(
        [sys.executable, "-m", "outlast", "operations", "list", "--address", foreign.address],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert result.returncode == ExitCode.OUTPUT_CLOSED
    assert result.stderr == ""
