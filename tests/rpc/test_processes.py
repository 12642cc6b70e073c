"""Servers that end, are killed, or share a store. They keep operations on a disk, or lose them."""

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import grpc
import pytest
from outlastapi.script.v1 import script_pb2
from outlastapi.v1 import operations_admin_pb2

from outlast.testing.clock import ManualClock

SERVER = Path(__file__).parent / "server_process.py"
LONG = {"sleep": {"seconds": 60}}


@pytest.fixture
def store(tmp_path):
    """Return a store that outlives its server."""
    return str(tmp_path / "operations.db")


class Process:
    """A server in a process of its own."""

    def __init__(self, process, address):
        self.process = process
        self.address = address

    async def kill(self):
        """Kill the server, and wait until it is dead."""
        self.process.send_signal(signal.SIGKILL)
        return await self.process.wait()


@asynccontextmanager
async def server_process(store):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(SERVER),
        store,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        address = (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()
        assert address
        yield Process(process, address)
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()
            await process.wait()


@pytest.mark.assertion(49)
async def test_results_survive_a_restart(serving):
    steps = [
        [{"answer": {"text": "x"}}],
        [{"fail": {"code": 9, "message": "no"}}],
        [{"raise": "secret"}],
    ]
    async with serving() as client:
        before = [await client.finished(*each, parent="p/1") for each in steps]
    async with serving() as client:
        assert [await client.get(each.name) for each in before] == before
        assert await client.names("p/1") == [each.name for each in before][::-1]


@pytest.mark.assertion(48)
async def test_what_runs_when_a_server_stops_is_run_again_and_no_step_twice(serving, tmp_path):
    done_before, witness = tmp_path / "before", tmp_path / "witness"
    steps = [
        {"durable": {"key": "a", "witness": str(done_before)}},
        {"durable": {"key": "b", "witness": str(witness), "duration": {"seconds": 1}}},
    ]
    async with serving() as client:
        started = await client.run(*steps)
        await client.until(witness.exists)
    async with serving() as client:
        done = await client.done(started)
        assert client.metadata(done).attempt == 1  # given back: it does not count
    assert len(done_before.read_text().splitlines()) == 1
    assert len(witness.read_text().splitlines()) == 2


@pytest.mark.assertion(48)
async def test_what_runs_when_a_server_is_killed_is_run_again_and_no_step_twice(
    store, connected, tmp_path
):
    done_before, witness = tmp_path / "before", tmp_path / "witness"
    steps = [
        {"durable": {"key": "a", "witness": str(done_before)}},
        {"durable": {"key": "b", "witness": str(witness), "duration": {"seconds": 1}}},
    ]
    async with (
        server_process(store) as server,
        connected(server.address) as client,
    ):
        started = await client.run(*steps)
        await client.until(witness.exists)
        await server.kill()
    async with server_process(store) as server, connected(server.address) as client:
        await client.done(started)
    assert len(done_before.read_text().splitlines()) == 1
    assert len(witness.read_text().splitlines()) == 2


@pytest.mark.assertion(48)
async def test_a_script_that_kills_its_process_is_run_again(store, connected):
    async with (
        server_process(store) as server,
        connected(server.address) as client,
    ):
        name = f"p/{uuid4()}"
        request = script_pb2.RunScriptRequest(parent=name, steps=[{"kill_process": True}])
        try:
            await client.script.RunScript(request)
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017
        assert await server.process.wait() == 137
    async with server_process(store) as server, connected(server.address) as client:
        (started,) = (await client.page(name)).operations
        done = await client.done(started)
        assert client.unpack(done.response).attempt == 1
        attempts = await client.admin.ListOperationAttempts(
            operations_admin_pb2.ListOperationAttemptsRequest(name=started.name)
        )
        lost, succeeded = attempts.attempts
        assert (lost.attempt, lost.outcome, lost.counted) == (1, lost.LOST, False)
        assert (succeeded.attempt, succeeded.outcome, succeeded.counted) == (
            1,
            lost.SUCCEEDED,
            True,
        )


@pytest.mark.assertion(114)
async def test_a_shorter_retention_fails_no_listing(serving, scripted):
    clock = ManualClock()
    async with serving(scripted(retention=timedelta(days=2)), clock=clock) as client:
        old = [(await client.finished()).name for _ in range(4)]
        token = (await client.page(page_size=2)).next_page_token
    async with serving(scripted(retention=timedelta(hours=1)), clock=clock) as client:
        assert len(await client.names(page_token=token)) == 2
        new = await client.finished()
        clock.jump(3600)
        assert new.name not in await client.names()
        assert set(await client.names()) == set(old)
        clock.jump(2 * 86400)
        assert await client.names(page_token=token) == []


@pytest.mark.assertion(118)
async def test_a_server_that_is_killed_while_it_takes_starts_keeps_whole_operations(
    store, connected
):
    accepted, refused = [], []

    async def start(client):
        while not refused:
            try:
                accepted.append((await client.run(parent="p/1")).name)
            except grpc.aio.AioRpcError as error:
                refused.append(error.code())

    async with (
        server_process(store) as server,
        connected(server.address) as client,
    ):
        starts = [asyncio.ensure_future(start(client)) for _ in range(16)]
        await client.until(lambda: len(accepted) > 200)
        await server.kill()
        await asyncio.gather(*starts)
    assert set(refused) == {grpc.StatusCode.UNAVAILABLE}
    async with server_process(store) as server, connected(server.address) as client:
        kept = await client.names("p/1", page_size=1000)
        assert set(accepted) <= set(kept)
        assert len(kept) <= len(accepted) + 16
        done = await asyncio.gather(*(client.wait(name) for name in kept))
        assert all(operation.HasField("response") for operation in done)


@pytest.mark.assertion(117)
async def test_two_servers_on_one_store_are_one(serving, store, connected, tmp_path):
    witness = tmp_path / "witness"
    async with (
        serving() as client,
        server_process(store) as server,
        connected(server.address) as other,
    ):
        # Read by the other the moment it was started.
        for _ in range(8):
            step = {"durable": {"key": "a", "witness": str(witness)}}
            started = await client.run(step, parent="p/1")
            assert (await other.get(started.name)).name == started.name
            await other.done(started)
        listed = await other.names("p/1")
        assert listed == await client.names("p/1")
        assert len(listed) == 8
        lines = witness.read_text().splitlines()
        assert sorted(lines) == sorted(f"{name} 1" for name in listed)
        # Cancelled and waited for from the other side.
        started = await client.run(LONG)
        wait = asyncio.ensure_future(client.wait(started.name))
        await other.cancel(started.name)
        cancelled = await wait
        assert cancelled.error.code == 1
        assert await other.get(started.name) == cancelled
        # One request_id, one operation.
        request_id = str(uuid4())
        runs = [each.run(LONG, request_id=request_id) for each in (client, other) * 10]
        (name,) = {operation.name for operation in await asyncio.gather(*runs)}
        # A token of the one is good for the other, and a delete is for both.
        token = (await client.page("p/1", page_size=5)).next_page_token
        assert await other.names("p/1", page_token=token) == listed[5:]
        await other.delete(name)
        assert (await client.refused(client.get(name))).code is grpc.StatusCode.NOT_FOUND
