"""DeleteOperation."""

import asyncio
from uuid import uuid4

import grpc
import pytest
from google.protobuf import empty_pb2

LONG = {"sleep": {"seconds": 60}}


@pytest.mark.assertion(74, 75)
async def test_a_deleted_operation_is_gone(serving):
    async with serving() as client:
        done = await client.finished(parent="p/1")
        assert await client.delete(done.name) == empty_pb2.Empty()
        for call in (client.get, client.wait, client.cancel, client.delete):
            refusal = await client.refused(call(done.name))
            assert refusal.code is grpc.StatusCode.NOT_FOUND
            assert refusal.info.metadata["name"] == done.name
        assert await client.names("p/1") == []


@pytest.mark.assertion(75)
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("operations/unknown", grpc.StatusCode.NOT_FOUND),
        ("", grpc.StatusCode.INVALID_ARGUMENT),
        ("p/1", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_a_delete_of_what_is_not_there_is_refused(serving, name, code):
    async with serving() as client:
        assert (await client.refused(client.delete(name))).code is code


@pytest.mark.assertion(76, 77)
async def test_a_running_operation_that_is_deleted_is_hidden_and_its_work_goes_on(
    serving, scripted
):
    go, finished = asyncio.Event(), asyncio.Event()

    async def work(_, operation):
        await go.wait()
        await operation.progress(completed=1)
        assert not operation.cancel_requested
        finished.set()

    async with serving(scripted(work)) as client:
        started = await client.running(await client.run())
        await client.delete(started.name)
        assert (await client.refused(client.get(started.name))).code is grpc.StatusCode.NOT_FOUND
        assert await client.names() == []
        go.set()
        await finished.wait()
        await client.until(lambda: client.engine.executor.running == 0)
        assert (await client.refused(client.get(started.name))).code is grpc.StatusCode.NOT_FOUND
        assert await client.names() == []
        assert client.engine.executor.refused_writes == 0


@pytest.mark.assertion(76)
async def test_a_queued_operation_that_is_deleted_is_run(serving, tmp_path):
    witness = tmp_path / "witness"
    async with serving(concurrency=1) as client:
        first = await client.running(await client.run(LONG))
        queued = await client.run({"durable": {"key": "a", "witness": str(witness)}})
        await client.delete(queued.name)
        await client.cancel(first.name)
        await client.until(witness.exists)
        assert (await client.refused(client.get(queued.name))).code is grpc.StatusCode.NOT_FOUND


@pytest.mark.assertion(77)
async def test_a_delete_ends_the_calls_that_wait(serving):
    async with serving() as client:
        started = await client.running(await client.run(LONG))
        waits = [asyncio.ensure_future(client.refused(client.wait(started.name))) for _ in range(5)]
        await client.until(lambda: client.engine.waiting == 5)
        await client.delete(started.name)
        for refusal in await asyncio.gather(*waits):
            assert refusal.code is grpc.StatusCode.NOT_FOUND


@pytest.mark.assertion(78)
@pytest.mark.parametrize("step", [LONG, {"answer": {}}], ids=["running", "done"])
async def test_a_delete_frees_the_request_id(serving, step):
    request_id = str(uuid4())
    async with serving() as client:
        first = await client.run(step, request_id=request_id)
        if step is not LONG:
            await client.done(first)
        await client.delete(first.name)
        second = await client.run(step, request_id=request_id)
        assert second.name != first.name
        assert (await client.get(second.name)).name == second.name
        again = await client.run(step, request_id=request_id)
        assert again.name == second.name
