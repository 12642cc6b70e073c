"""Handlers that keep the event loop of their server to themselves for longer than its lease."""

import pytest
from outlastapi.script.v1 import script_pb2

LEASE = ("--lease", "1s")

BLOCKS = """
import asyncio
import time
from pathlib import Path

import outlast
from outlastapi.script.v1 import script_pb2, script_pb2_grpc


def keep_the_loop():
    while not Path("go on").exists():
        time.sleep(0.01)


class Blocks(script_pb2_grpc.ScriptServiceServicer):
    @outlast.long_running()
    async def RunScript(self, request, operation):
        task = request.steps[0].answer.text
        with Path(task).open("a") as file:
            file.write(f"{operation.attempt}\\n")
        if task == "neighbour":
            await asyncio.sleep(3)  # three times the lease
        elif len(Path(task).read_text().splitlines()) == 1:
            keep_the_loop()
        return script_pb2.RunScriptResponse(text=task, attempt=operation.attempt)
"""


@pytest.fixture
def blocks(serve, folder, eventually):
    """Return what starts servers, and what has one of them begin a task."""
    (folder / "blocks.py").write_text(BLOCKS, encoding="utf-8")

    def begun(server, task):
        name = server.run_script({"answer": {"text": task}})
        eventually((folder / task).exists)
        return name

    return lambda *options: serve("--service", "blocks:Blocks", *LEASE, *options), begun


def answer(operation):
    response = script_pb2.RunScriptResponse()
    assert operation.response.Unpack(response), operation
    return response


def test_what_runs_beside_a_handler_that_blocks_keeps_its_lease_and_its_attempt(
    serve, eventually, state_of
):
    server = serve("--script", *LEASE)
    neighbour = server.run_script({"sleep": {"seconds": 2}})
    eventually(lambda: state_of(server.get(neighbour)).HasField("start_time"))
    blocking = server.run_script({"block": {"seconds": 3}})

    done = [server.result(name) for name in (neighbour, blocking)]

    assert [answer(each).attempt for each in done] == [1, 1]
    assert not any(state_of(each).HasField("last_error") for each in done)
    assert f"stands still, in the handler of operation {blocking}; it must not" in server.log
    assert "in _block" in server.log
    assert "the event loop goes on" in server.log
    assert "refused" not in server.log


def test_another_server_takes_nothing_over_from_one_that_is_blocked(blocks, folder):
    start, begun = blocks
    blocked = start()
    name = begun(blocked, "blocking")
    other = start()

    assert answer(other.result(begun(other, "neighbour"))).text == "neighbour"
    (folder / "go on").touch()

    assert answer(other.result(name)).attempt == 1
    assert (folder / "blocking").read_text(encoding="utf-8") == "1\n"
    assert "refused" not in blocked.log


def test_a_server_that_is_blocked_for_too_long_is_replaced_and_its_late_write_refused(
    blocks, folder, eventually
):
    start, begun = blocks
    blocked = start("--set", "max_loop_block=1s")
    name = begun(blocked, "blocking")
    other = start()

    result = other.result(name)
    (folder / "go on").touch()
    refused = f"a write for operation {name} was refused: epoch 1 is over"
    eventually(lambda: refused in blocked.log)

    assert answer(result).text == "blocking"
    assert blocked.get(name) == other.get(name) == result
    assert blocked.log.count(refused) == 1
    assert (folder / "blocking").read_text(encoding="utf-8") == "1\n1\n"
    other.kill()
    assert answer(blocked.result(begun(blocked, "afterwards"))).attempt == 1
