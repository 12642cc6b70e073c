"""`outlast operations retry|attempts` and `list --dead`."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2
from outlastapi.v1 import operations_admin_pb2 as admin_pb2
from outlastapi.v1 import operations_admin_pb2_grpc

from outlast.cli import render
from outlast.cli.exit_codes import ExitCode

WORKER = "a-worker"


@dataclass
class Admin(operations_admin_pb2_grpc.OperationsAdminServiceServicer):
    """An admin service that retries what it has, two at a time, and writes down what it is asked."""

    foreign: Any
    address: str = ""
    dead: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    attempts: list[admin_pb2.OperationAttempt] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)
    headers: dict[str, Any] = field(default_factory=dict)
    full_after: int = 1000
    skipped: int = 0

    def ListOperationAttempts(self, request, context):
        self._called(request, context)
        return admin_pb2.ListOperationAttemptsResponse(attempts=self.attempts)

    def RedriveOperation(self, request, context):
        self._called(request, context)
        if request.name in self.unknown:
            context.abort(grpc.StatusCode.NOT_FOUND, "there is none")
        if request.name not in self.dead:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "it is RUNNING")
        new = f"{request.name}-again"
        self.foreign.succeed(new, "done at last")
        return operations_pb2.Operation(name=new)

    def RedriveOperations(self, request, context):
        self._called(request, context)
        self.foreign.check_parent(request.parent, context)
        start = int(request.page_token or 0)
        if start >= self.full_after:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full")
        end = start + min(request.page_size, 2)
        return admin_pb2.RedriveOperationsResponse(
            redriven_operations=[
                admin_pb2.RedrivenOperation(name=f"{name}-again", retried_from=name)
                for name in self.dead[start:end]
            ],
            skipped_count=self.skipped,
            next_page_token=str(end) if end < len(self.dead) else "",
        )

    def _called(self, request, context):
        self.requests.append(request)
        self.headers = dict(context.invocation_metadata())


@pytest.fixture
def admin(foreign) -> Iterator[Admin]:
    """A server with the admin service, beside a google.longrunning one."""
    service = Admin(foreign)
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    operations_admin_pb2_grpc.add_OperationsAdminServiceServicer_to_server(service, server)
    operations_pb2_grpc.add_OperationsServicer_to_server(foreign, server)
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield service
    server.stop(grace=None).wait()


def test_retry_says_which_operations_do_the_work_again(run, admin):
    admin.dead = ["operations/a", "p/1/operations/b"]
    result = run("operations", "retry", "operations/a", "p/1/operations/b", server=admin)
    assert result.exit_code == ExitCode.OK
    assert result.stdout.splitlines() == [
        "operations/a is retried as operations/a-again",
        "p/1/operations/b is retried as p/1/operations/b-again",
    ]
    assert admin.headers["x-goog-request-params"] == "name=p%2F1%2Foperations%2Fb"


def test_retry_as_json_is_a_line_for_each(run, admin):
    admin.dead = ["operations/a"]
    result = run("operations", "retry", "operations/a", "--json", server=admin)
    assert json.loads(result.stdout) == {
        "name": "operations/a-again",
        "retriedFrom": "operations/a",
    }


def test_retry_tries_every_name_and_exits_with_the_first_failure(run, admin):
    admin.dead = ["operations/a", "operations/c"]
    admin.unknown = ["operations/d"]
    names = ("operations/a", "operations/b", "operations/c", "operations/d")
    result = run("operations", "retry", *names, server=admin)
    assert result.exit_code == ExitCode.RPC_ERROR
    assert result.stdout.splitlines() == [
        "operations/a is retried as operations/a-again",
        "operations/c is retried as operations/c-again",
    ]
    assert result.stderr.splitlines() == [
        "Error: operations/b: it is RUNNING (FAILED_PRECONDITION)",
        "Error: operations/d: there is none (NOT_FOUND)",
    ]
    result = run("operations", "retry", *reversed(names), server=admin)
    assert result.exit_code == ExitCode.NOT_FOUND


def test_retry_can_wait_for_the_result(run, admin):
    admin.dead = ["operations/a"]
    result = run("operations", "retry", "operations/a", "--wait", server=admin)
    assert result.exit_code == ExitCode.OK
    assert json.loads(result.stdout)["@type"].endswith("foreign.v1.EchoReply")
    assert "operations/a is retried as operations/a-again" in result.stderr
    whole = run("operations", "retry", "operations/a", "--wait", "--json", server=admin)
    document = json.loads(whole.stdout)
    assert (document["name"], document["done"]) == ("operations/a-again", True)


def test_retry_by_filter_follows_every_page_and_says_what_it_did(run, admin):
    admin.dead = [f"p/1/operations/{number}" for number in range(5)]
    admin.skipped = 1
    result = run("operations", "retry", "p/1", "--filter", "error.code = 14", server=admin)
    assert result.exit_code == ExitCode.OK
    assert result.stdout.splitlines() == [f"{n} is retried as {n}-again" for n in admin.dead]
    assert result.stderr.startswith("Retried 5, skipped 3.\nSkipped were those")
    assert {request.filter for request in admin.requests} == {"error.code = 14"}
    assert {request.parent for request in admin.requests} == {"p/1"}


def test_retry_of_dead_letters_needs_no_filter_and_may_have_one(run, admin):
    result = run("operations", "retry", "--dead", server=admin)
    assert result.exit_code == ExitCode.OK
    assert result.stderr == "Retried 0, skipped 0.\n"
    run("operations", "retry", "--dead", "--filter", "a OR b", server=admin)
    assert {request.parent for request in admin.requests} == {"-"}
    filters = [request.filter for request in admin.requests]
    assert filters == ["dead_letter = true", "a OR b AND dead_letter = true"]


def test_retry_keeps_to_its_limit(run, admin):
    admin.dead = [f"operations/{number}" for number in range(5)]
    result = run("operations", "retry", "--dead", "--limit", "3", "--json", server=admin)
    assert len(result.stdout.splitlines()) == 3
    assert result.stderr == (
        "There may be more: run it again, or give a higher --limit.\nRetried 3, skipped 0.\n"
    )


def test_retry_says_what_it_did_before_the_queue_was_full(run, admin):
    admin.dead = [f"operations/{number}" for number in range(5)]
    admin.full_after = 4
    result = run("operations", "retry", "--dead", server=admin)
    assert result.exit_code == ExitCode.RPC_ERROR
    assert len(result.stdout.splitlines()) == 4
    assert result.stderr.startswith("Retried 4, skipped 0.\nError: the queue is full")
    admin.full_after = 0
    result = run("operations", "retry", "--dead", server=admin)
    assert result.stderr.startswith("Error: the queue is full")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("operations/a", "--limit", "3"),
        ("p/1", "p/2", "--dead"),
        ("operations/a", "operations/b", "--wait"),
        ("shelves/1",),
        ("operations/a", "shelves/1/operations"),
        ("--dead", "--wait"),
        ("--dead", "--limit", "0"),
    ],
    ids=" ".join,
)
def test_a_retry_that_contradicts_itself_is_a_usage_error(run, admin, arguments):
    result = run("operations", "retry", *arguments, server=admin)
    assert result.exit_code == ExitCode.USAGE
    assert admin.requests == []


@pytest.mark.parametrize(
    "arguments", [("retry", "operations/a"), ("retry", "--dead"), ("attempts", "operations/a")]
)
def test_a_server_without_the_admin_service_is_told_of(run, foreign, arguments):
    result = run("operations", *arguments, server=foreign)
    assert result.exit_code == ExitCode.RPC_ERROR
    line = f"Error: the server at {foreign.address} cannot do this: it has no"
    assert f"{line} outlastapi.v1.OperationsAdminService" in result.stderr
    assert "--address" in result.stderr


def test_attempts_says_when_where_and_why(run, admin):
    admin.attempts = [
        admin_pb2.OperationAttempt(
            attempt=1,
            worker=WORKER,
            start_time={"seconds": 1_700_000_000},
            end_time={"seconds": 1_700_000_060},
            outcome=admin_pb2.OperationAttempt.LOST,
            error=status_pb2.Status(code=code_pb2.ABORTED, message="the worker was\x1b[2J lost"),
        ),
        admin_pb2.OperationAttempt(
            attempt=1,
            worker=WORKER,
            start_time={"seconds": 1_700_000_100},
            outcome=admin_pb2.OperationAttempt.RUNNING,
            counted=True,
        ),
    ]
    result = run("operations", "attempts", "operations/a", server=admin)
    lost = "1\tLOST\t2023-11-14 22:13:20Z\t2023-11-14 22:14:20Z"
    assert result.stdout.splitlines() == [
        f"{lost}\ta-worker\tthe worker was[2J lost (ABORTED)\tuncounted",
        "1\tRUNNING\t2023-11-14 22:15:00Z\t\ta-worker\t\tcounted",
    ]
    lines = run("operations", "attempts", "operations/a", "--json", server=admin).stdout
    first, second = map(json.loads, lines.splitlines())
    assert (first["outcome"], second["counted"]) == ("LOST", True)


@pytest.fixture
def terminal(monkeypatch) -> None:
    monkeypatch.setattr(render, "sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True)))


@pytest.mark.usefixtures("terminal")
def test_attempts_are_a_table_on_a_terminal(run, admin):
    none = run("operations", "attempts", "operations/a", server=admin)
    assert (none.stdout, none.stderr) == ("", "No attempts.\n")
    error = status_pb2.Status(code=code_pb2.ABORTED, message="[red]lost[/red]")
    failed = admin_pb2.OperationAttempt.FAILED
    admin.attempts = [
        admin_pb2.OperationAttempt(attempt=1, outcome=failed, error=error, counted=True)
    ]
    heading, row = run("operations", "attempts", "operations/a", server=admin).stdout.splitlines()
    assert heading.split() == ["ATTEMPT", "OUTCOME", "STARTED", "ENDED", "WORKER", "ERROR"]
    assert row.split() == ["1", "FAILED", "[red]lost[/red]", "(ABORTED)"]


@pytest.mark.usefixtures("terminal")
def test_the_table_marks_attempts_that_did_not_count(run, admin):
    lost = admin_pb2.OperationAttempt.LOST
    admin.attempts = [
        admin_pb2.OperationAttempt(attempt=number, outcome=lost, counted=counted)
        for number, counted in ((1, False), (1, True), (2, True))
    ]
    _, *rows, note = run("operations", "attempts", "a", server=admin).stdout.splitlines()
    assert [row.split() for row in rows] == [["1*", "LOST"], ["1", "LOST"], ["2", "LOST"]]
    assert note == "* does not count: the next attempt has its number."


DAY = 86_400
NOVEMBER = 1_700_000_000


@pytest.mark.parametrize(
    ("width", "apart", "cells"),
    [
        (140, 0, [*["2023-11-14", "22:13:20Z"] * 2, "2b1c2ea4-6e4c-4b57-8ab1-0dbd4ac1a6a0"]),
        (110, 0, [*["2023-11-14", "22:13:20Z"] * 2, "2b1c2ea4"]),
        (80, 0, ["22:13:20Z", "22:13:20Z", "2b1c2ea4"]),
        (80, DAY, [*["11-14", "22:13:20Z"] * 2, "2b1c2ea4"]),
        (20, 0, ["22:13:20Z", "22:13:20Z", "2b1c2ea4"]),
    ],
)
@pytest.mark.usefixtures("terminal")
def test_a_narrow_terminal_shows_why_attempts_failed(run, admin, width, apart, cells):
    error = status_pb2.Status(code=code_pb2.UNAVAILABLE, message="out of paper")
    admin.attempts = [
        admin_pb2.OperationAttempt(
            attempt=number,
            worker="2b1c2ea4-6e4c-4b57-8ab1-0dbd4ac1a6a0",
            start_time={"seconds": NOVEMBER + number * apart},
            end_time={"seconds": NOVEMBER + number * apart},
            outcome=admin_pb2.OperationAttempt.FAILED,
            error=error,
            counted=True,
        )
        for number in range(2)
    ]
    result = run(
        "operations", "attempts", "a/operations/b", server=admin, env={"COLUMNS": f"{width}"}
    )
    heading, first, *rest = result.stdout.splitlines()
    assert heading.split()[-1] == "ERROR"
    column = heading.index("ERROR")
    assert first[:column].split() == ["0", "FAILED", *cells]
    told = " ".join(line[column:].strip() for line in (first, *rest))
    assert told.split() == ["out", "of", "paper", "(UNAVAILABLE)"] * 2
    assert all(len(line.rstrip()) <= max(width, 72) for line in (first, *rest))


def test_list_can_ask_for_dead_letters(run, foreign):
    for name in ("-/operations/a", "-/operations/b", "-/operations/c"):
        foreign.add(name)
    result = run("operations", "list", "--dead", server=foreign)
    assert result.stdout.split() == [
        *("-/operations/a", "UNFINISHED", "-/operations/b", "UNFINISHED"),
        *("-/operations/c", "UNFINISHED"),
    ]
    assert result.stderr == ""
    assert foreign.headers["x-goog-request-params"] == "name=-"
    foreign.filters.clear()
    run("operations", "list", "p/1", "--dead", "--filter", "a OR b", server=foreign)
    assert foreign.filters == ["a OR b AND dead_letter = true"]
    assert foreign.headers["x-goog-request-params"] == "name=p%2F1"


LETTER = "shelves/1/operations/5a3c1f0e-7d7c-4b8e-9d55-3f"


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (200, f"{LETTER}  UNAVAILABLE: {'no paper ' * 5}n…  a.Press/Print  2023-11-14 22:13:20Z"),
        (100, f"{LETTER}  UNAVAILABLE: {'no paper ' * 4}n…"),
        (20, f"{LETTER}  UNAVAILABLE: no pap…"),
    ],
)
@pytest.mark.usefixtures("terminal")
def test_the_table_of_dead_letters_says_what_they_failed_with(run, foreign, types, width, line):
    failure = status_pb2.Status(code=code_pb2.UNAVAILABLE, message="no paper " * 10)
    metadata = types.metadata(verb="a.Press/Print", create_time={"seconds": NOVEMBER})
    foreign.put(operations_pb2.Operation(name=LETTER, done=True, error=failure, metadata=metadata))
    columns = {"COLUMNS": f"{width}"}
    result = run("operations", "list", "shelves/1", "--dead", server=foreign, env=columns)
    heading, row = result.stdout.splitlines()
    assert heading.split() == ["NAME", "ERROR", "METHOD", "CREATED"][: 4 if width == 200 else 2]
    assert row.rstrip() == line


NO_LIST = "The server has no list across parents: only what has no parent is found.\n"
NAMES_NO_FIELD = ()
NAMES_THE_PARENT = ({"field": "name"}, {"field": "parent"})
NAMES_THE_FILTER = ({"field": "filter"},)


@pytest.mark.parametrize("violations", [NAMES_NO_FIELD, NAMES_THE_PARENT])
def test_a_server_that_refuses_every_parent_is_asked_for_none(run, admin, foreign, violations):
    foreign.add("operations/a")
    admin.dead = ["operations/a"]
    foreign.refuse = ("-", bad_request(violations))
    listed = run("operations", "list", "--dead", server=admin)
    assert listed.stdout.startswith("operations/a\t")
    assert listed.stderr == NO_LIST
    retried = run("operations", "retry", "--dead", server=admin)
    assert retried.stdout == "operations/a is retried as operations/a-again\n"
    assert retried.stderr == f"{NO_LIST}Retried 1, skipped 0.\n"
    assert [request.parent for request in admin.requests] == ["-", ""]


@pytest.mark.parametrize("command", ["list", "retry"])
def test_a_filter_that_is_refused_is_not_taken_for_the_parent(run, admin, foreign, command):
    foreign.refuse = ("-", bad_request(NAMES_THE_FILTER))
    result = run("operations", command, "--dead", "--filter", "what", server=admin)
    assert result.exit_code == ExitCode.RPC_ERROR
    error, *_, sent = result.stderr.splitlines()
    assert error == "Error: what? (INVALID_ARGUMENT)"
    assert sent == "  the filter that was sent: what AND dead_letter = true"


@pytest.mark.parametrize("command", ["list", "retry"])
@pytest.mark.parametrize("options", [(), ("--dead",)], ids=["filter", "dead letters"])
def test_every_parent_that_was_asked_for_by_name_is_refused(run, admin, foreign, command, options):
    foreign.refuse = ("-", bad_request(NAMES_THE_PARENT))
    arguments = (command, "-", "--filter", "state = FAILED", *options)
    result = run("operations", *arguments, server=admin)
    assert result.exit_code == ExitCode.RPC_ERROR
    assert (result.stdout, result.stderr.splitlines()[0]) == ("", "Error: what? (INVALID_ARGUMENT)")
    assert len(admin.requests) == (command == "retry")


def test_a_retry_that_is_given_a_parent_says_what_it_needs(run, admin):
    result = run("operations", "retry", "shelves/1", server=admin)
    assert "'shelves/1' is not the NAME of an operation" in result.stderr
    assert "give --filter or --dead" in result.stderr


def bad_request(violations):
    return (
        status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message="what?"),
        error_details_pb2.BadRequest(field_violations=violations),
    )


def test_get_says_what_an_operation_was_retried_from(run, foreign, types):
    foreign.add("operations/b", metadata=types.metadata(retried_from="operations/a"))
    result = run("operations", "get", "operations/b", server=foreign)
    assert "retried from: operations/a" in result.stdout.splitlines()
