"""Servers that are asked to stop."""

import signal
import sqlite3
from collections import Counter
from contextlib import closing
from datetime import timedelta

import grpc
import pytest
from google.longrunning import operations_pb2
from grpc_health.v1 import health_pb2
from outlastapi.v1.operation_metadata_pb2 import OperationMetadata

from outlast.cli.exit_codes import ExitCode

SCRIPT = "outlastapi.script.v1.ScriptService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

STUBBORN = """
import asyncio
import time
from pathlib import Path

import outlast
from outlastapi.script.v1 import script_pb2, script_pb2_grpc


class Stubborn(script_pb2_grpc.ScriptServiceServicer):
    @outlast.long_running()
    async def RunScript(self, request, operation):
        Path("runs").touch()
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass

    @outlast.long_running()
    async def EraseScript(self, request, operation):
        Path("runs").touch()
        await operation.run_in_thread(time.sleep, 3600)
"""

LOADED = """
import asyncio
from pathlib import Path

import outlast
from outlastapi.script.v1 import script_pb2, script_pb2_grpc


class Loaded(script_pb2_grpc.ScriptServiceServicer):
    @outlast.long_running()
    async def RunScript(self, request, operation):
        with open("runs", "a") as runs:
            runs.write(f"{operation.name} {operation.attempt}\\n")
        while not Path(request.steps[0].answer.text).exists():
            await asyncio.sleep(0.02)
        return script_pb2.RunScriptResponse()
"""


def durable(key, witness, duration):
    return {"durable": {"key": key, "witness": witness.name, "duration": duration}}


def health(server, service=""):
    request = health_pb2.HealthCheckRequest(service=service)
    return iter(server.health.Watch(request, timeout=30))


def test_a_server_that_stops_answers_waiters_and_gives_back_what_does_not_end(
    serve, folder, eventually, state_of
):
    server = serve("--script", "--grace", "1s")
    quick, slow = folder / "quick", folder / "slow"
    ends = server.run_script(durable("quick", quick, timedelta(milliseconds=500)))
    begins = durable("begins", folder / "begins", timedelta())
    stays = server.run_script(begins, durable("stays", slow, timedelta(seconds=3)))
    eventually(lambda: quick.exists() and slow.exists())
    watches = [health(server, service) for service in ("", SCRIPT)]
    assert [next(watch).status for watch in watches] == [SERVING, SERVING]
    wait = operations_pb2.WaitOperationRequest(name=stays, timeout={"seconds": 30})
    waiting = server.operations.WaitOperation.future(wait, timeout=30)
    server.get(stays)  # answered after the server has the call that waits

    server.terminate()

    assert [next(watch).status for watch in watches] == [NOT_SERVING, NOT_SERVING]
    latest = waiting.result()
    assert not latest.done
    assert state_of(latest).state == OperationMetadata.RUNNING
    assert server.process.poll() is None
    assert server.process.wait(30) == 0
    assert "2 operations are running and have 1 s to end" in server.log
    assert "stopped: 1 operation was given back" in server.log  # the other one has ended

    server = serve("--script")
    assert state_of(server.get(ends)).attempt == 1
    assert server.get(ends).HasField("response")
    assert state_of(server.result(stays)).attempt == 1
    assert server.get(stays).HasField("response")
    assert len(slow.read_text(encoding="utf-8").splitlines()) == 2
    assert len((folder / "begins").read_text(encoding="utf-8").splitlines()) == 1


@pytest.mark.parametrize("options", [(), ("--no-execute",)], ids=["runs", "runs nothing"])
def test_a_server_with_nothing_to_wait_for_says_that_it_stops_and_has_stopped(serve, options):
    server = serve("--script", *options)
    server.terminate()
    assert server.process.wait(30) == 0
    said = [line.partition("stop")[2] for line in server.log.splitlines() if "stop" in line]
    assert said == ["ping: nothing is running", "ped: nothing was given back"]


def test_calls_that_come_while_a_server_drains_wait_until_it_has_drained(
    serve, folder, eventually, state_of
):
    server = serve("--script", "--grace", "1h")
    runs = [folder / "ends", folder / "stays"]
    ends = server.run_script(durable("ends", runs[0], timedelta(seconds=1)))
    stays = server.run_script(durable("stays", runs[1], timedelta(hours=1)))
    eventually(lambda: all(run.exists() for run in runs))
    watch = health(server)
    assert next(watch).status == SERVING
    server.terminate()
    assert next(watch).status == NOT_SERVING

    wait = operations_pb2.WaitOperationRequest(name=stays, timeout={"seconds": 30})
    waiting = server.operations.WaitOperation.future(wait, timeout=30)
    assert server.result(ends).HasField("response")
    assert not waiting.done()
    server.terminate()

    latest = waiting.result()
    assert not latest.done
    assert state_of(latest).state == OperationMetadata.PENDING  # it was given back
    assert server.process.wait(30) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_second_signal_ends_the_grace(serve, folder, eventually, state_of, number):
    server = serve("--script", "--grace", "1h")
    name = server.run_script(durable("endless", folder / "runs", timedelta(hours=1)))
    eventually((folder / "runs").exists)
    watch = health(server)
    assert next(watch).status == SERVING
    server.process.send_signal(number)
    assert next(watch).status == NOT_SERVING
    assert server.process.poll() is None

    server.process.send_signal(number)

    assert server.process.wait(30) == 0
    assert "1 operation is running and has 3600 s to end" in server.log
    assert "told to stop a second time" in server.log
    assert "stopped: 1 operation was given back" in server.log
    server = serve("--script")
    assert state_of(server.get(name)).attempt in (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["RunScript", "EraseScript"], ids=["task", "thread"])
def test_work_that_does_not_stop_cannot_keep_the_process(serve, folder, eventually, method):
    (folder / "stubborn.py").write_text(STUBBORN, encoding="utf-8")
    server = serve("--service", "stubborn:Stubborn", "--grace", "0s")
    start = server.channel.unary_unary(
        f"/{SCRIPT}/{method}", response_deserializer=operations_pb2.Operation.FromString
    )
    name = start(b"", timeout=30).name
    eventually((folder / "runs").exists)

    server.terminate()

    assert server.process.wait(20) == 0
    assert "does not stop" in server.log
    assert serve("--script").result(name).HasField("response")


@pytest.fixture
def load(serve, folder, eventually):
    """Give a server ten times what it can run at once, and callers who wait for it."""
    (folder / "loaded.py").write_text(LOADED, encoding="utf-8")

    def load(*arguments):
        server = serve("--service", "loaded:Loaded", "--concurrency", "20", *arguments)
        names = [
            server.run_script({"answer": {"text": "quick" if number % 3 else "long"}})
            for number in range(200)
        ]
        eventually(lambda: len(runs(folder)) == 20)
        waits = [
            server.operations.WaitOperation.future(
                operations_pb2.WaitOperationRequest(name=name, timeout={"seconds": 60}), timeout=60
            )
            for name in names[:50]
        ]
        server.get(names[0])  # answered after the server has the calls that wait
        watch = health(server)
        assert next(watch).status == SERVING
        return server, names, waits, watch

    return load


def runs(folder):
    """Return the name and the attempt of every run that has begun."""
    path = folder / "runs"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def finish_everything(serve, folder, names, state_of):
    """Have the next server finish what is left; every operation needs one attempt in all."""
    for name in ("quick", "long"):
        (folder / name).touch()
    server = serve("--service", "loaded:Loaded", "--lease", "1h")
    results = [server.result(name) for name in names]
    assert all(result.HasField("response") for result in results)
    assert {state_of(result).attempt for result in results} == {1}
    assert {line.split()[1] for line in runs(folder)} == {"1"}


def test_a_loaded_server_that_stops_finishes_or_gives_back_all_it_has_accepted(
    serve, folder, load, eventually, state_of
):
    server, names, waits, watch = load("--grace", "1h", "--lease", "1h")
    began = runs(folder)

    server.terminate()

    assert next(watch).status == NOT_SERVING
    latest = [wait.result() for wait in waits]
    assert not any(operation.done for operation in latest)
    assert [state_of(operation).state for operation in latest] == (
        20 * [OperationMetadata.RUNNING] + 30 * [OperationMetadata.PENDING]
    )
    names.append(server.run_script({"answer": {"text": "long"}}))  # what is accepted is kept
    (folder / "quick").touch()
    eventually(lambda: all(server.get(names[number]).done for number in range(20) if number % 3))
    assert server.process.poll() is None
    server.terminate()  # otherwise it waits an hour
    assert server.process.wait(10) == 0
    assert runs(folder) == began
    finish_everything(serve, folder, names, state_of)
    again = Counter(line.split()[0] for line in runs(folder))
    assert again == {name: 2 if name in names[:20:3] else 1 for name in names}


def test_a_loaded_server_whose_work_ends_within_the_grace_stops_by_itself(
    serve, folder, load, state_of
):
    server, names, waits, watch = load("--grace", "1h", "--lease", "1h")
    server.terminate()
    assert next(watch).status == NOT_SERVING
    assert not any(wait.result().done for wait in waits)

    for name in ("quick", "long"):
        (folder / name).touch()

    assert server.process.wait(30) == 0
    assert len(runs(folder)) == 20
    finish_everything(serve, folder, names, state_of)
    assert Counter(line.split()[0] for line in runs(folder)) == Counter(names)


def test_a_server_that_stops_answers_no_new_connection(serve):
    server = serve("--script")
    server.terminate()
    assert server.process.wait(30) == 0
    with pytest.raises(grpc.RpcError) as refused:
        server.get("operations/any")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signals", "grace", "seconds"),
    [(1, "0s", 15), (2, "1h", 7)],
    ids=["in time", "at once by a second signal"],
)
def test_a_server_ends_although_its_store_is_locked(
    serve, folder, eventually, state_of, *, signals, grace, seconds
):
    server = serve("--script", "--grace", grace, "--lease", "1h")
    name = server.run_script(durable("long", folder / "runs", timedelta(hours=1)))
    eventually((folder / "runs").exists)
    watch = health(server)
    assert next(watch).status == SERVING
    with closing(sqlite3.connect(folder / "outlast.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")

        server.terminate()
        assert next(watch).status == NOT_SERVING
        if signals > 1:
            server.terminate()

        assert server.process.wait(seconds) == 0
    assert "left to its lease" in server.log
    server = serve("--script")
    assert state_of(server.get(name)).state == OperationMetadata.RUNNING


def test_a_second_signal_ends_a_server_whose_event_loop_a_handler_blocks(serve, eventually):
    server = serve("--script", "--grace", "1h")
    server.run_script({"block": {"seconds": 60}})
    eventually(lambda: "the event loop stands still" in server.log)
    server.terminate()
    server.process.send_signal(signal.SIGINT)  # two of a kind may be taken for one
    assert server.process.wait(30) == ExitCode.CANNOT_SERVE
    assert "does not take notice of signals" in server.log
