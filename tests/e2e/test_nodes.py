"""Servers on one database of PostgreSQL: what one does, the others hear of, or find."""

import signal
import time

import grpc
import psycopg
import pytest
from google.longrunning import operations_pb2
from outlastapi.script.v1 import script_pb2
from outlastapi.v1 import operations_admin_pb2, operations_admin_pb2_grpc
from outlastapi.v1.operation_metadata_pb2 import OperationMetadata

import outlast
from outlast.stores.postgres.connection import IDLE_TIMEOUT
from tests.postgresql_proxy import PostgresProxy

GATED = """
import asyncio
from datetime import timedelta
from pathlib import Path

import outlast
from outlastapi.script.v1 import script_pb2, script_pb2_grpc

TWICE = outlast.RetryPolicy(max_attempts=2, initial_backoff=timedelta(milliseconds=100))


class Gated(script_pb2_grpc.ScriptServiceServicer):
    @outlast.long_running(retry=TWICE)
    async def RunScript(self, request, operation):
        gate = request.steps[0].answer.text
        Path(f"{gate} runs").touch()
        try:
            while not Path(gate).exists():
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            Path(f"{gate} stopped").touch()
            raise
        if gate == "broken":
            raise outlast.OperationFailed(outlast.Code.UNAVAILABLE, "broken")
        return script_pb2.RunScriptResponse(text=gate)
"""
LONG = ("--set", "max_wait=1h")
NEVER = (*LONG, "--lease=1h", "--set", "poll_interval=1h", "--set", "waiter_poll_interval=1h")
"""Without a hint nothing happens within the test."""
OFTEN = (*LONG, "--lease=3s", "--set", "poll_interval=500ms", "--set", "waiter_poll_interval=500ms")
SECONDS = 25
"""For what is over in one. A call that waits for longer was not woken."""
LISTEN, NOTIFY = b"LISTEN ", b"pg_notify"
HALFWAY = """
SELECT count(*) FROM pg_stat_activity
WHERE state = 'idle in transaction' AND query LIKE '%ORDER BY o.name FOR UPDATE%'
"""
UNHEARD = "changes of other servers at"


@pytest.fixture
def database(postgres):
    """Return the URL of an empty database, which is dropped when no process uses it any more."""
    url = postgres.new_database()
    yield url
    postgres.drop(url)


@pytest.fixture
def newest(postgres_of):
    """Return the URL of an empty database of the newest version."""
    postgres = postgres_of("18")
    url = postgres.new_database()
    yield url
    postgres.drop(url)


@pytest.fixture
def network(newest):
    """Return a network to that database which can be cut."""
    with PostgresProxy(newest) as network:
        yield network


@pytest.fixture
def node(serve, folder):
    """Start servers that run what waits for a file of the name that its request says."""
    (folder / "gated.py").write_text(GATED, encoding="utf-8")

    def node(url, *arguments):
        return serve("--service", "gated:Gated", "--store", url, *arguments)

    return node


def start(server, gate, **fields):
    """Start an operation that ends when the gate is there; return its name."""
    request = script_pb2.RunScriptRequest(steps=[{"answer": {"text": gate}}], **fields)
    return server.script.RunScript(request, timeout=30).name


def waiting(server, name):
    """Return a call that waits, which the server has."""
    wait = operations_pb2.WaitOperationRequest(name=name, timeout={"seconds": 3600})
    call = server.operations.WaitOperation.future(wait)
    server.get(name)  # answered after the server has the call that waits
    return call


def cancel(server, name):
    request = operations_pb2.CancelOperationRequest(name=name)
    server.operations.CancelOperation(request, timeout=30)


def text_of(operation):
    response = script_pb2.RunScriptResponse()
    assert operation.response.Unpack(response)
    return response.text


def test_a_hint_tells_other_nodes_of_work_of_its_end_and_of_its_deletion(
    database, node, folder, eventually
):
    caller = node(database, "--no-execute", *NEVER)
    worker = node(database, *NEVER)
    name, other = start(caller, "gate"), start(caller, "other")
    eventually(lambda: (folder / "gate runs").exists() and (folder / "other runs").exists())
    calls = [waiting(caller, name), waiting(caller, other), waiting(worker, other)]
    assert not any(call.done() for call in calls)

    (folder / "gate").touch()
    began = time.monotonic()

    assert text_of(calls[0].result(SECONDS)) == "gate"
    assert time.monotonic() - began < 2
    request = operations_pb2.DeleteOperationRequest(name=other)
    caller.operations.DeleteOperation(request, timeout=30)
    for call in calls[1:]:
        assert call.exception(SECONDS).code() is grpc.StatusCode.NOT_FOUND
    (folder / "other").touch()


def test_a_cancel_on_one_node_reaches_the_handler_on_another_within_a_second(
    database, node, folder, eventually, state_of
):
    caller = node(database, "--no-execute", *NEVER)
    node(database, *NEVER)
    name = start(caller, "gate")
    eventually((folder / "gate runs").exists)

    began = time.time()
    cancel(caller, name)

    stopped = folder / "gate stopped"
    eventually(stopped.exists)
    assert stopped.stat().st_mtime - began < 1
    assert state_of(caller.result(name)).state == OperationMetadata.CANCELLED


def test_nodes_that_cannot_tell_each_other_anything_find_everything(
    network, node, folder, eventually, state_of
):
    network.refuse(LISTEN)
    caller = node(network.url, "--no-execute", *OFTEN)
    worker = node(network.url, *OFTEN)
    ends, stops, breaks = (start(caller, gate) for gate in ("ends", "stops", "broken"))
    for gate in ("ends", "stops", "broken"):
        eventually((folder / f"{gate} runs").exists)
    calls = {name: waiting(caller, name) for name in (ends, stops, breaks)}

    (folder / "ends").touch()
    cancel(caller, stops)
    (folder / "broken").touch()

    assert text_of(calls[ends].result(SECONDS)) == "ends"
    assert state_of(calls[stops].result(SECONDS)).state == OperationMetadata.CANCELLED
    assert (folder / "stops stopped").exists()
    dead = state_of(calls[breaks].result(SECONDS))
    assert (dead.dead_letter, dead.attempt) == (True, 2)
    admin = operations_admin_pb2_grpc.OperationsAdminServiceStub(caller.channel)
    again = admin.RedriveOperation(
        operations_admin_pb2.RedriveOperationRequest(name=breaks), timeout=30
    )
    assert state_of(caller.result(again.name)).retried_from == breaks
    for server in (caller, worker):
        assert UNHEARD in server.log
        server.terminate()
        assert server.process.wait(30) == 0


def test_a_waiter_whose_hint_was_lost_is_answered_when_hints_come_again(
    newest, network, node, folder, eventually
):
    caller = node(network.url, "--no-execute", *NEVER)
    worker = node(newest, *NEVER)
    name = start(caller, "gate")
    eventually((folder / "gate runs").exists)
    call = waiting(caller, name)
    network.refuse(LISTEN)
    network.cut()
    eventually(lambda: UNHEARD in caller.log)
    (folder / "gate").touch()
    assert worker.result(name).done
    assert not call.done()

    network.refuse(None)

    assert text_of(call.result(SECONDS)) == "gate"


def test_work_whose_hint_was_never_sent_is_taken_when_hints_can_be_sent_again(
    newest, network, node, folder, eventually
):
    caller = node(network.url, "--no-execute", *NEVER)
    node(newest, *NEVER)
    name = start(caller, "first")  # now the worker hears
    eventually((folder / "first runs").exists)
    network.refuse(NOTIFY)
    start(caller, "second")
    eventually(lambda: "are not told of changes" in caller.log)
    assert not (folder / "second runs").exists()

    network.refuse(None)

    eventually((folder / "second runs").exists)
    (folder / "first").touch()
    (folder / "second").touch()
    assert caller.result(name).done


@pytest.mark.slow
def test_a_node_that_is_stopped_in_a_transaction_holds_others_up_only_for_a_while(
    newest, network, node, folder, eventually
):
    stopped = node(network.url, "--no-execute")
    other = node(newest)
    name = start(other, "gate")
    eventually((folder / "gate runs").exists)
    network.hold(b"UPDATE outlast.operations o\nSET (")
    asked = operations_pb2.CancelOperationRequest(name=name)
    held = stopped.operations.CancelOperation.future(asked, timeout=60)
    with psycopg.connect(newest, autocommit=True) as connection:
        eventually(lambda: connection.execute(HALFWAY).fetchone() == (1,))
    stopped.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()

    (folder / "free").touch()
    assert other.result(start(other, "free")).done  # what has nothing to do with it goes on
    assert time.monotonic() - began < IDLE_TIMEOUT.total_seconds()
    cancel(other, name)

    assert time.monotonic() - began < IDLE_TIMEOUT.total_seconds() + 2
    network.hold(None)
    stopped.resume()
    held.result()
    assert other.result(name).error.code == outlast.Code.CANCELLED
