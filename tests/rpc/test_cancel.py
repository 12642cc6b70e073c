"""CancelOperation."""

import asyncio
from contextlib import suppress
from datetime import timedelta

import grpc
import pytest
from google.protobuf import empty_pb2
from outlastapi.script.v1 import script_pb2

import outlast

LONG = {"sleep": {"seconds": 60}}


@pytest.mark.assertion(61, 63, 64, 70)
async def test_a_cancel_is_answered_at_once_and_the_works_own_end_counts(serving, scripted):
    told, go = asyncio.Event(), asyncio.Event()

    async def work(_, operation):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert operation.cancel_requested
            told.set()
            await go.wait()
        return script_pb2.RunScriptResponse(text="finished nevertheless")

    async with serving(scripted(work)) as client:
        started = await client.running(await client.run())
        assert await client.cancel(started.name) == empty_pb2.Empty()
        await told.wait()
        stopping = await client.get(started.name)
        assert not stopping.done
        assert client.metadata(stopping).HasField("cancel_requested_time")
        await client.cancel(started.name)
        assert (await client.get(started.name)) == stopping
        go.set()
        done = await client.done(started)
        assert client.unpack(done.response).text == "finished nevertheless"


@pytest.mark.assertion(62)
async def test_a_cancelled_operation_is_done_and_stays(serving):
    async with serving() as client:
        started = await client.running(await client.run(LONG, parent="p/1"))
        await client.cancel(started.name)
        done = await client.done(started)
        assert done.error.code == outlast.Code.CANCELLED
        assert await client.get(started.name) == done
        assert list((await client.page("p/1")).operations) == [done]


@pytest.mark.assertion(64, 65)
@pytest.mark.parametrize(
    "step",
    [{"answer": {"text": "x"}}, {"fail": {"code": 9, "message": "no"}}, LONG],
    ids=["succeeded", "failed", "cancelled"],
)
async def test_a_cancel_of_what_is_done_changes_nothing(serving, step):
    async with serving() as client:
        started = await client.run(step)
        if step is LONG:
            await client.cancel(started.name)
        before = await client.done(started)
        for _ in range(3):
            await client.cancel(started.name)
        after = await client.get(started.name)
        assert after.SerializeToString() == before.SerializeToString()


@pytest.mark.assertion(66, 67)
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("operations/unknown", grpc.StatusCode.NOT_FOUND),
        ("p/1/operations/unknown", grpc.StatusCode.NOT_FOUND),
        ("", grpc.StatusCode.INVALID_ARGUMENT),
        ("p/1", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_a_cancel_of_what_is_not_there_is_refused(serving, name, code):
    async with serving() as client:
        assert (await client.refused(client.cancel(name))).code is code


@pytest.mark.assertion(68)
async def test_a_cancel_that_races_with_the_end_leaves_one_result(serving, scripted):
    """Four hundred times, as a caller sees it; the engine's own test does it ten thousand times."""
    completed = set()

    async def work(request, operation):
        for _ in range(int(request.exclusive_key)):
            await asyncio.sleep(0)
        completed.add(operation.name)

    async with serving(scripted(work)) as client:

        async def race(number):
            operation = await client.run(exclusive_key=str(number % 40), parent=f"p/{number}")
            for _ in range(number % 7):
                await asyncio.sleep(0)
            await client.cancel(operation.name)
            done = await client.done(operation)
            if done.HasField("response"):
                assert done.name in completed
            else:
                assert done.error.code == outlast.Code.CANCELLED
            assert await client.get(done.name) == done
            return done.WhichOneof("result")

        # One at a time for each key: the key is how long the work takes.
        for batch in range(10):
            numbers = range(batch * 40, (batch + 1) * 40)
            results = await asyncio.gather(*(race(number) for number in numbers))
        assert set(results) <= {"response", "error"}


@pytest.mark.assertion(69)
async def test_a_queued_operation_that_is_cancelled_never_starts(serving, tmp_path):
    witness = tmp_path / "witness"
    async with serving(concurrency=1) as client:
        first = await client.running(await client.run(LONG))
        queued = await client.run({"durable": {"key": "a", "witness": str(witness)}})
        await client.cancel(queued.name)
        done = await client.get(queued.name)
        assert done.error.code == outlast.Code.CANCELLED
        assert not client.metadata(done).HasField("start_time")
        await client.cancel(first.name)
        # The slot is free again: what is run now would have been run after the other.
        await client.finished()
        assert await client.get(queued.name) == done
    assert not witness.exists()


@pytest.mark.assertion(70)
async def test_a_script_that_ignores_cancellation_ends_with_its_answer(serving):
    async with serving() as client:
        steps = [
            {"ignore_cancellation": True},
            {"sleep": {"nanos": 200_000_000}},
            {"answer": {"text": "to the end"}},
        ]
        started = await client.running(await client.run(*steps))
        for _ in range(3):
            await client.cancel(started.name)
        done = await client.done(started)
        assert client.unpack(done.response).text == "to the end"


@pytest.mark.assertion(71)
@pytest.mark.parametrize("error", [RuntimeError("secret"), SystemExit(), KeyboardInterrupt()])
async def test_work_that_fails_while_it_is_cancelled_is_cancelled(serving, scripted, error):
    async def work(*_):
        try:
            await asyncio.Event().wait()
        finally:
            raise error

    async with serving(scripted(work)) as client:
        started = await client.running(await client.run())
        await client.cancel(started.name)
        done = await client.done(started)
        assert done.error.code == outlast.Code.CANCELLED
        assert client.metadata(done).attempt == 1


@pytest.mark.assertion(71)
async def test_work_that_reports_a_failure_while_it_is_cancelled_fails(serving, scripted):
    async def work(*_):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            message = "half of it was written"
            raise outlast.OperationFailed(outlast.Code.DATA_LOSS, message) from error

    async with serving(scripted(work)) as client:
        started = await client.running(await client.run())
        await client.cancel(started.name)
        done = await client.done(started)
        assert done.error.code == outlast.Code.DATA_LOSS


async def test_an_attempt_that_is_worth_another_ends_when_it_was_cancelled(serving, scripted):
    async def work(*_):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            message = "try again"
            raise outlast.OperationFailed(outlast.Code.UNAVAILABLE, message) from error

    async with serving(scripted(work)) as client:
        started = await client.running(await client.run())
        await client.cancel(started.name)
        done = await client.done(started)
        assert done.error.code == outlast.Code.CANCELLED
        assert client.metadata(done).attempt == 1


async def test_a_cancel_while_a_retry_is_awaited_ends_the_operation_at_once(serving, scripted):
    async def work(*_):
        message = "not now"
        raise outlast.OperationFailed(
            outlast.Code.UNAVAILABLE, message, retry_delay=timedelta(hours=1)
        )

    async with serving(scripted(work)) as client:
        started = await client.run()
        waits = client.metadata
        while not waits(await client.get(started.name)).HasField("next_attempt_time"):
            with suppress(TimeoutError):
                await client.wait(started.name, 0.01)
        await client.cancel(started.name)
        done = await client.get(started.name)
        assert done.error.code == outlast.Code.CANCELLED


@pytest.mark.assertion(73)
async def test_every_kind_of_operation_can_be_cancelled(serving):
    async with serving() as client:
        for started in (await client.run(LONG), await client.erase(LONG)):
            await client.running(started)
            await client.cancel(started.name)
            assert (await client.done(started)).error.code == outlast.Code.CANCELLED
