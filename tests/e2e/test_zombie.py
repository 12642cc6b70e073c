"""Servers that are stopped past their lease, and go on when others have done their work."""

import re
from datetime import timedelta

import pytest
from outlastapi.script.v1 import script_pb2

LEASE = ("--lease", "1s")

ZOMBIE = """
import asyncio
import time
from pathlib import Path

import outlast
from outlastapi.script.v1 import script_pb2, script_pb2_grpc

async def stay():
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:  # its lease has run out, and it does not care
        pass


async def finish(operation):
    while not Path("awake").exists():
        time.sleep(0.01)  # keeps the event loop, so that nothing comes before the outcome


async def progress(operation):
    await stay()
    await operation.progress(completed=1, total=1, message="late")


async def step(operation):
    await stay()
    await operation.step("late", str)


async def nothing(operation):
    await asyncio.sleep(3600)


class Zombie(script_pb2_grpc.ScriptServiceServicer):
    @outlast.long_running()
    async def RunScript(self, request, operation):
        if request.steps and not Path("runs").exists():
            Path("runs").touch()
            await globals()[request.steps[0].answer.text](operation)
        return script_pb2.RunScriptResponse(text="the result", attempt=operation.attempt)
"""


def as_bytes(operation):
    return operation.SerializeToString(deterministic=True)


@pytest.fixture
def zombie(serve, folder, eventually, state_of):
    """Have two servers do the same work; return them, its name, and its result."""
    (folder / "zombie.py").write_text(ZOMBIE, encoding="utf-8")
    service = ("--service", "zombie:Zombie", *LEASE)

    def zombie(late):
        stopped = serve(*service)
        name = stopped.run_script({"answer": {"text": late}})
        eventually((folder / "runs").exists)
        stopped.pause()
        other = serve(*service)
        result = other.result(name)
        assert state_of(result).last_error.message == "the worker that ran this attempt was lost"
        (folder / "awake").touch()
        stopped.resume()
        return stopped, other, name, as_bytes(result)

    return zombie


@pytest.mark.parametrize("late", ["finish", "progress", "step"])
def test_what_a_zombie_writes_is_refused_and_logged_once(zombie, eventually, late):
    stopped, other, name, result = zombie(late)
    refused = f"a write for operation {name} was refused: epoch 1 is over"

    eventually(lambda: refused in stopped.log)

    assert as_bytes(stopped.get(name)) == as_bytes(other.get(name)) == result
    assert stopped.log.count(refused) == 1
    assert "refused" not in other.log


def test_a_zombie_that_can_be_stopped_writes_nothing(zombie, eventually):
    stopped, other, name, result = zombie("nothing")

    eventually(lambda: re.search(f"operation {name} (runs out|was taken over); it is", stopped.log))

    assert as_bytes(stopped.get(name)) == as_bytes(other.get(name)) == result
    assert "refused" not in stopped.log


@pytest.mark.parametrize("late", ["finish", "step"])
def test_a_zombie_that_woke_up_serves_and_works_on(zombie, state_of, late):
    stopped, other, name, result = zombie(late)
    other.kill()

    new = stopped.run_script()

    answer = script_pb2.RunScriptResponse()
    assert stopped.result(new).response.Unpack(answer)
    assert answer.attempt == state_of(stopped.get(new)).attempt == 1
    assert as_bytes(stopped.get(name)) == result


def test_a_server_that_is_stopped_for_less_than_its_lease_keeps_its_work(
    serve, folder, eventually, state_of
):
    server = serve("--script", "--lease", "1h")
    other = serve("--script", "--lease", "1h")
    witness = folder / "witness"
    step = {"durable": {"key": "step", "witness": "witness", "duration": timedelta(seconds=1)}}
    name = server.run_script(step)
    eventually(witness.exists)

    server.pause()
    server.resume()

    assert state_of(other.result(name)).attempt == 1
    assert witness.read_text(encoding="utf-8").splitlines() == [f"{name} 1"]
