"""`outlast serve --processes`: one address, several processes, and what becomes of them."""

import os
import signal
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from outlastapi.script.v1 import script_pb2, script_pb2_grpc
from outlastapi.v1.operation_metadata_pb2 import OperationMetadata

from outlast.cli.exit_codes import ExitCode

TIMEOUT = 30
COUNT = 24

WHOSE = """
import os
from pathlib import Path

import outlast
from outlast_script import ScriptService


def tell(request, context=None):
    raise outlast.InvalidArgumentError("steps", f"asked of {os.getpid()}.")


class Whose(ScriptService):
    def __init__(self):
        if Path("broken").exists():
            raise ValueError("broken")

    @outlast.long_running(validate=tell)
    async def EraseScript(self, request, operation):
        return None
"""


@pytest.fixture(params=["sqlite", "postgres"])
def store(request, postgres_of):
    """Return the options of a store that several processes share."""
    if request.param == "sqlite":
        yield ("--store", "outlast.db")
        return
    postgres = postgres_of("18")
    url = postgres.new_database()
    yield ("--store", url)
    postgres.drop(url)


@pytest.fixture
def several(serve, folder):
    """Start two processes that tell by a refusal which of them was asked."""
    (folder / "whose.py").write_text(WHOSE, encoding="utf-8")

    def several(*arguments):
        return serve("--service", "whose:Whose", "--processes", "2", *arguments)

    return several


def processes_of(server):
    """Return the ids of the processes that a supervisor has started."""
    tasks = Path(f"/proc/{server.process.pid}/task").glob("*/children")
    return {int(word) for task in tasks for word in task.read_text("ascii").split()}


def is_gone(process):
    """Whether a process has ended; who has to take notice of that may not have, yet."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text("utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def met_by(server):
    """Return the id of the process that a new connection leads to."""
    options = [("grpc.use_local_subchannel_pool", 1)]  # nor one of an earlier channel
    with closing(grpc.insecure_channel(server.address, options)) as channel:
        erase = script_pb2_grpc.ScriptServiceStub(channel).EraseScript
        with pytest.raises(grpc.RpcError) as refused:
            erase(script_pb2.EraseScriptRequest(), timeout=TIMEOUT, wait_for_ready=True)
    return int(refused.value.details().rstrip(".").rpartition(" ")[2])


def patiently(call, request):
    """Make a call as clients do: again, if the server has gone meanwhile."""
    end = time.monotonic() + TIMEOUT
    while True:
        try:
            return call(request, timeout=TIMEOUT, wait_for_ready=True)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > end:
                raise


def durable(witness, duration):
    return {"durable": {"key": "here", "witness": str(witness), "duration": duration}}


def test_both_processes_answer_and_the_supervisor_serves_nothing(several, store):
    server = several(*store)
    assert server.ready_line.endswith(", in 2 processes\n")
    members = processes_of(server)
    assert len(members) == 2
    met = set()
    for _ in range(200):  # the system deals connections out by chance
        met.add(met_by(server))
        if met == members:
            break
    assert met == members
    maps = Path(f"/proc/{server.process.pid}/maps").read_text("utf-8")
    assert "cygrpc" not in maps
    for member in members:  # Ctrl-C in a terminal is for the supervisor only
        assert os.getsid(member) == member

    server.terminate()

    assert server.process.wait(TIMEOUT) == ExitCode.OK
    assert all(map(is_gone, members))


def test_a_process_that_is_killed_loses_nothing_and_is_replaced(
    several, store, folder, eventually, state_of
):
    server = several(*store, "--lease", "2s", "--concurrency", "8")
    scripts = script_pb2_grpc.ScriptServiceStub(server.channel)
    names = [
        patiently(
            scripts.RunScript,
            script_pb2.RunScriptRequest(
                steps=[durable(folder / f"run{number}", timedelta(milliseconds=300))]
            ),
        ).name
        for number in range(COUNT)
    ]
    members = processes_of(server)
    eventually((folder / "run0").exists)

    os.kill(min(members), signal.SIGKILL)

    operations = operations_pb2_grpc.OperationsStub(server.channel)
    for name in names:
        wait = operations_pb2.WaitOperationRequest(name=name)
        while not (done := patiently(operations.WaitOperation, wait)).done:
            pass
        assert done.HasField("response")
        assert state_of(done).attempt == 1
    listed = patiently(operations.ListOperations, operations_pb2.ListOperationsRequest())
    assert sorted(each.name for each in listed.operations) == sorted(names)
    assert f"process {min(members)} ended by SIGKILL" in server.log
    eventually(lambda: len(processes_of(server) - {min(members)}) == 2)

    server.terminate()

    assert server.process.wait(TIMEOUT) == ExitCode.OK


def test_what_runs_has_its_grace_in_every_process_and_a_second_signal_ends_it(
    several, store, folder, eventually
):
    server = several(*store, "--grace", "1h", "--concurrency", "1")
    for number in range(2):
        server.run_script(durable(folder / f"endless{number}", timedelta(hours=1)))
    eventually(lambda: all((folder / f"endless{number}").exists() for number in range(2)))

    server.terminate()

    eventually(lambda: server.log.count("1 operation is running and has 3600 s to end") == 2)
    assert server.process.poll() is None
    server.terminate()
    assert server.process.wait(TIMEOUT) == ExitCode.OK
    assert server.log.count("told to stop a second time") == 2
    assert server.log.count("stopped: 1 operation was given back") == 2


def test_processes_whose_supervisor_is_killed_drain_and_end(
    several, serve, store, folder, eventually
):
    server = several(*store)
    members = processes_of(server)
    name = server.run_script(durable(folder / "run", timedelta(seconds=1)))
    eventually((folder / "run").exists)

    server.kill()

    eventually(lambda: all(map(is_gone, members)))
    done = serve("--script", "--no-execute", *store).get(name)
    assert done.HasField("response")
    assert len((folder / "run").read_text("utf-8").splitlines()) == 1


def test_a_process_that_dies_again_and_again_is_started_after_pauses_that_grow(
    several, folder, eventually
):
    server = several()
    members = processes_of(server)
    (folder / "broken").touch()

    os.kill(min(members), signal.SIGKILL)

    eventually(lambda: "another process is started in 0.4 s" in server.log)
    assert met_by(server) == max(members)
    pauses = [line.split()[-2] for line in server.log.splitlines() if "is started in" in line]
    assert pauses[:3] == ["0.1", "0.2", "0.4"]
    (folder / "broken").unlink()
    met = set()
    eventually(lambda: met.add(met_by(server)) or len(met - members) == 1)
    server.terminate()
    assert server.process.wait(TIMEOUT) == ExitCode.OK


def test_a_process_that_is_told_to_stop_alone_is_replaced(several, eventually):
    server = several()
    members = processes_of(server)

    os.kill(max(members), signal.SIGTERM)

    eventually(lambda: len(processes_of(server) - {max(members)}) == 2)
    assert f"process {max(members)} ended with exit code 0" in server.log
    (successor,) = processes_of(server) - members
    eventually(lambda: f"process {successor} is ready in place of the one that" in server.log)
    assert server.log.count("is ready in place") == 1
    server.terminate()
    assert server.process.wait(TIMEOUT) == ExitCode.OK


def test_processes_on_one_file_hear_of_each_other_without_asking(
    serve, work, folder, eventually, state_of
):
    """Every poll is an hour away: what starts, ends and is cancelled is heard of in time."""
    server = serve("--script", "--no-execute", "--set", "waiter_poll_interval=1h")
    work("--script", "--set", "poll_interval=1h", "--lease", "3h")
    for number in range(3):
        done = server.result(
            server.run_script(durable(folder / f"run{number}", timedelta(milliseconds=100)))
        )
        assert done.HasField("response")
    endless = server.run_script(durable(folder / "endless", timedelta(hours=1)))
    eventually((folder / "endless").exists)
    request = operations_pb2.CancelOperationRequest(name=endless)
    server.operations.CancelOperation(request, timeout=TIMEOUT)
    assert state_of(server.result(endless)).state == OperationMetadata.CANCELLED
