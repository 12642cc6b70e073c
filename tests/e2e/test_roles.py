"""Servers that run nothing, workers that serve nothing, and methods that some leave to others."""

import json
import subprocess
import sys
from datetime import timedelta

import grpc
import pytest
from google.longrunning import operations_pb2
from grpc_health.v1 import health_pb2
from outlastapi.script.v1 import script_pb2
from outlastapi.v1.operation_metadata_pb2 import OperationMetadata

SCRIPT = "outlastapi.script.v1.ScriptService"
RUN, ERASE = f"{SCRIPT}/RunScript", f"{SCRIPT}/EraseScript"
API = "google.longrunning.Operations"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

VERSIONS = """
import outlast
from google.protobuf import empty_pb2
from outlastapi.script.v1 import script_pb2, script_pb2_grpc


class Old(script_pb2_grpc.ScriptServiceServicer):
    @outlast.long_running()
    async def RunScript(self, request, operation):
        return script_pb2.RunScriptResponse(text="old")


class New(Old):
    @outlast.long_running()
    async def EraseScript(self, request, operation):
        return empty_pb2.Empty()
"""


def durable(witness, duration):
    return {"durable": {"key": "here", "witness": str(witness), "duration": duration}}


def answer(text):
    return {"answer": {"text": text}}


def text_of(operation):
    response = script_pb2.RunScriptResponse()
    assert operation.response.Unpack(response)
    return response.text


def erase(server):
    """Start an operation of the other method; return its name."""
    return server.script.EraseScript(script_pb2.EraseScriptRequest(), timeout=30).name


def state_of_erasing(server, name):
    metadata = OperationMetadata()
    assert server.get(name).metadata.Unpack(metadata)
    return metadata.state


def checked(process, service=""):
    request = health_pb2.HealthCheckRequest(service=service)
    return process.health.Check(request, timeout=30).status


def test_a_server_that_runs_nothing_leaves_the_work_to_a_worker(serve, work, state_of):
    server = serve("--script", "--no-execute")
    assert f"serving {SCRIPT}, {API}, " in server.ready_line
    assert server.ready_line.endswith(", running none\n")
    name = server.run_script(answer("done"))
    wait = operations_pb2.WaitOperationRequest(name=name, timeout={"seconds": 1})
    waited = server.operations.WaitOperation(wait, timeout=30)
    assert state_of(waited).state == OperationMetadata.PENDING

    worker = work("--script")

    assert worker.ready_line.endswith(f", operations in outlast.db, running {RUN}, {ERASE}\n")
    assert text_of(server.result(name)) == "done"


def test_a_worker_serves_its_health_and_nothing_else(work):
    worker = work("--script")
    assert checked(worker) == SERVING
    for service in (SCRIPT, API):
        with pytest.raises(grpc.RpcError) as unknown:
            checked(worker, service)
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
    for call in (worker.run_script, lambda: worker.get("operations/1")):
        with pytest.raises(grpc.RpcError) as refused:
            call()
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("service", ["", SCRIPT])
def test_the_health_of_servers_and_workers_can_be_asked_for_by_hand(serve, work, service):
    process = serve("--script", "--no-execute") if service else work("--script")
    check = ("grpc.health.v1.Health/Check", "--data", json.dumps({"service": service}))
    asked = subprocess.run(
        [sys.executable, "-m", "outlast", "call", *check, "--address", process.address],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (asked.returncode, asked.stderr) == (0, "")
    assert json.loads(asked.stdout) == {"status": "SERVING"}


def test_a_worker_that_is_told_to_stop_lets_what_runs_end_and_gives_back_the_rest(
    serve, work, folder, eventually, state_of
):
    server = serve("--script", "--no-execute")
    worker = work("--script", "--grace", "1s")
    quick, slow = folder / "quick", folder / "slow"
    ends = server.run_script(durable("quick", timedelta(milliseconds=500)))
    stays = server.run_script(durable("slow", timedelta(seconds=3)))
    eventually(lambda: quick.exists() and slow.exists())
    watch = iter(worker.health.Watch(health_pb2.HealthCheckRequest(), timeout=30))
    assert next(watch).status == SERVING

    worker.terminate()

    assert next(watch).status == NOT_SERVING
    assert worker.process.wait(30) == 0
    assert "2 operations are running and have 1 s to end" in worker.log
    assert "stopped: 1 operation was given back" in worker.log
    assert server.get(ends).HasField("response")
    assert state_of(server.get(stays)).state == OperationMetadata.PENDING

    work("--script", "--lease", "1h")
    assert state_of(server.result(stays)).attempt == 1


def test_workers_share_the_methods_as_they_are_told(serve, work, state_of):
    server = serve("--script", "--no-execute")
    runs, erases = server.run_script(), erase(server)

    first = work("--script", "--method", RUN)

    assert first.ready_line.endswith(f"running {RUN}\n")
    assert server.result(runs).HasField("response")
    assert server.result(server.run_script()).HasField("response")
    assert state_of_erasing(server, erases) == OperationMetadata.PENDING

    second = work("--script", "--except-method", RUN)

    assert second.ready_line.endswith(f"running {ERASE}\n")
    assert server.result(erases).HasField("response")
    first.terminate()
    assert first.process.wait(30) == 0
    left = server.run_script()
    assert server.result(erase(server)).HasField("response")
    assert state_of(server.get(left)).state == OperationMetadata.PENDING
    assert "no such method" not in first.log + second.log


def test_a_worker_of_an_older_version_leaves_what_it_has_not_to_a_newer_one(serve, work, folder):
    (folder / "versions.py").write_text(VERSIONS, encoding="utf-8")
    server = serve("--service", "versions:New", "--no-execute")
    waiting = erase(server)

    old = work("--service", "versions:Old")

    assert text_of(server.result(server.run_script())) == "old"
    assert state_of_erasing(server, waiting) == OperationMetadata.PENDING
    assert f"1 operations of {ERASE} are not done, and this process has no such method" in old.log

    work("--service", "versions:New")

    assert server.result(waiting).HasField("response")
    assert server.result(erase(server)).HasField("response")
    assert old.process.poll() is None


@pytest.fixture
def database(postgres):
    """Return the URL of an empty database, which is dropped when no process uses it any more."""
    url = postgres.new_database()
    yield url
    postgres.drop(url)


def test_the_roles_share_a_database_of_postgresql(database, serve, work):
    store = ("--store", database)
    server = serve("--script", "--no-execute", *store)
    runs, erases = server.run_script(answer("there")), erase(server)

    worker = work("--script", "--method", RUN, *store)

    assert text_of(server.result(runs)) == "there"
    assert state_of_erasing(server, erases) == OperationMetadata.PENDING
    work("--script", *store)
    assert server.result(erases).HasField("response")
    worker.terminate()
    assert worker.process.wait(30) == 0
