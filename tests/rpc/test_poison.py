"""Operations that kill whoever runs them."""

import asyncio
import os
import sys

import grpc
import pytest

import outlast

KILLED = 137
FORGIVEN = 2
"""The losses before an operation is on trial; they use up no attempt."""


@pytest.fixture
def store(tmp_path):
    """Return a store that outlives its server."""
    return str(tmp_path / "operations.db")


async def server_that_dies(store):
    """Run a server until it ends by itself; return its exit status."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "outlast", "serve", "--script", "--store", store),
        *("--listen", "127.0.0.1:0", "--lease", "500ms", "--log-level", "warning"),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        return await asyncio.wait_for(process.wait(), 30)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_an_operation_that_kills_every_worker_is_a_dead_letter_in_the_end(
    serving, store, tmp_path
):
    witness = tmp_path / "witness"
    steps = [{"durable": {"key": "a", "witness": str(witness)}}, {"kill_attempts": {}}]
    async with serving(execute=False) as client:
        started = await client.run(*steps)
        ends = [await server_that_dies(store) for _ in range(FORGIVEN + 5)]
    async with serving() as client:
        done = await client.done(started)
        alive = await client.finished({"answer": {"text": "x"}})

    assert ends == [KILLED] * (FORGIVEN + 5)
    assert done.error.code == outlast.Code.ABORTED
    assert client.unpack(done.error.details[0]).reason == "WORKER_LOST"
    assert client.metadata(done).attempt == 5
    assert client.metadata(done).dead_letter
    assert witness.read_text().splitlines() == [f"{started.name} 1"]
    assert alive.HasField("response")


async def test_an_operation_that_kills_the_first_workers_succeeds_with_the_next(serving, store):
    async with serving(execute=False) as client:
        started = await client.run({"kill_attempts": {"attempts": 2}}, {"answer": {"text": "x"}})
        ends = [await server_that_dies(store) for _ in range(FORGIVEN + 2)]
    async with serving() as client:
        response = client.unpack((await client.done(started)).response)

    assert ends == [KILLED] * (FORGIVEN + 2)
    assert (response.text, response.attempt) == ("x", 3)


async def test_a_script_cannot_kill_in_less_than_no_attempt(serving):
    async with serving(execute=False) as client:
        refusal = await client.refused(client.run({"kill_attempts": {"attempts": -1}}))
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refusal.field == "steps[0].kill_attempts.attempts"
        assert await client.names() == []
