"""WaitOperation."""

import asyncio
from datetime import timedelta

import grpc
import pytest
from google.longrunning import operations_pb2
from google.protobuf import duration_pb2

import outlast
from outlast.rpc.codec import Codec
from outlast.testing.clock import ManualClock

LONG = {"sleep": {"seconds": 60}}


@pytest.mark.assertion(79)
@pytest.mark.parametrize("seconds", [None, 0, 50])
async def test_a_wait_for_what_is_done_returns_at_once(serving, seconds):
    clock = ManualClock()  # it stands still: whatever waits, waits for ever
    async with serving(clock=clock) as client:
        done = await client.finished()
        assert await client.wait(done.name, seconds) == done


@pytest.mark.assertion(80)
async def test_a_wait_that_runs_out_returns_the_latest_state(serving):
    clock = ManualClock()
    async with serving(clock=clock) as client:
        started = await client.running(await client.run(LONG))
        wait = asyncio.ensure_future(client.wait(started.name, 1))
        await client.until(lambda: client.engine.waiting == 1)
        await clock.advance(0.9)
        assert client.engine.waiting == 1
        await clock.advance(0.1)
        await client.until(lambda: client.engine.waiting == 0)  # its first read may be under way
        assert await wait == started


@pytest.mark.assertion(81)
async def test_a_wait_ends_with_the_operation_by_a_push(serving, scripted):
    go = asyncio.Event()

    async def work(*_):
        await go.wait()

    clock = ManualClock()  # no poll can come to help: it stands still
    async with serving(scripted(work), clock=clock) as client:
        started = await client.run()
        waits = [asyncio.ensure_future(client.wait(started.name, 50)) for _ in range(5)]
        await client.until(lambda: client.engine.waiting == 5)
        go.set()
        results = await asyncio.gather(*waits)
        assert all(done.HasField("response") for done in results)
        assert client.engine.waiting == 0


async def test_those_who_ask_for_one_operation_share_one_encoded_answer(
    serving, scripted, monkeypatch
):
    go, encoded, to_proto = asyncio.Event(), [], Codec.to_proto

    async def work(*_):
        await go.wait()

    def counted(codec, operation):
        encoded.append(operation)
        return to_proto(codec, operation)

    monkeypatch.setattr(Codec, "to_proto", counted)
    async with serving(scripted(work)) as client:
        name = (await client.run()).name
        waits = [asyncio.ensure_future(client.wait(name, 50)) for _ in range(20)]
        await client.until(lambda: client.engine.waiting == 20)
        go.set()
        answers = await asyncio.gather(*waits)
        answers += await asyncio.gather(*(client.get(name) for _ in range(20)))
    assert all(answer == answers[0] for answer in answers)
    assert [operation.done for operation in encoded].count(True) == 1


@pytest.mark.assertion(82)
async def test_a_wait_ends_before_the_callers_deadline(serving):
    async with serving() as client:
        started = await client.running(await client.run(LONG))
        waited = await client.wait(started.name, 60, timeout=1)
        assert waited == started


@pytest.mark.assertion(83, 84)
@pytest.mark.parametrize("seconds", [None, 315_576_000_000, 10**9])
async def test_a_wait_is_capped_by_the_server(serving, seconds):
    clock = ManualClock()
    async with serving(clock=clock, max_wait=timedelta(seconds=30)) as client:
        started = await client.running(await client.run(LONG))
        timeout = None if seconds is None else duration_pb2.Duration(seconds=seconds)
        request = operations_pb2.WaitOperationRequest(name=started.name, timeout=timeout)
        call = asyncio.ensure_future(_answer(client.operations.WaitOperation(request)))
        await client.until(lambda: client.engine.waiting == 1)
        await clock.advance(29)
        assert client.engine.waiting == 1
        await clock.advance(1)
        assert await call == started


async def _answer(call):
    return await call


@pytest.mark.assertion(85)
async def test_a_wait_of_no_time_returns_at_once(serving):
    clock = ManualClock()
    async with serving(clock=clock) as client:
        started = await client.running(await client.run(LONG))
        assert await client.wait(started.name, 0) == started


@pytest.mark.assertion(56, 86)
@pytest.mark.parametrize(
    ("seconds", "nanos"),
    [(-1, 0), (0, -1), (1, -1), (-1, 1), (0, 10**9), (315_576_000_001, 0), (-(2**63), 0)],
)
@pytest.mark.parametrize("done", [True, False])
async def test_a_wait_of_a_malformed_time_is_refused(serving, seconds, nanos, done):
    async with serving() as client:
        operation = await client.run(*[] if done else [LONG])
        if done:
            await client.done(operation)
        timeout = duration_pb2.Duration(seconds=seconds, nanos=nanos)
        request = operations_pb2.WaitOperationRequest(name=operation.name, timeout=timeout)
        refusal = await client.refused(client.operations.WaitOperation(request))
        assert (refusal.code, refusal.field) == (grpc.StatusCode.INVALID_ARGUMENT, "timeout")
        await client.check_alive()


@pytest.mark.assertion(87)
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("operations/unknown", grpc.StatusCode.NOT_FOUND),
        ("p/1/operations/unknown", grpc.StatusCode.NOT_FOUND),
        ("", grpc.StatusCode.INVALID_ARGUMENT),
        ("p/1", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_a_wait_for_what_is_not_there_is_refused_at_once(serving, name, code):
    clock = ManualClock()
    async with serving(clock=clock) as client:
        assert (await client.refused(client.wait(name, 50))).code is code


@pytest.mark.assertion(88)
async def test_a_wait_that_its_caller_gives_up_leaves_nothing_behind(serving):
    async with serving() as client:
        started = await client.running(await client.run(LONG))
        request = operations_pb2.WaitOperationRequest(name=started.name)
        for _ in range(10):
            calls = [client.operations.WaitOperation(request) for _ in range(1000)]
            await client.until(lambda: client.engine.waiting == 1000)
            for call in calls:
                call.cancel()
            await client.until(lambda: client.engine.waiting == 0)
        assert client.engine.manager._hub._waiters == {}
        assert await client.get(started.name) == started


@pytest.mark.assertion(88)
async def test_a_connection_that_breaks_during_a_wait_leaves_nothing_behind(serving, connected):
    async with serving() as client:
        started = await client.running(await client.run(LONG))
        request = operations_pb2.WaitOperationRequest(name=started.name)
        async with connected(client.server.address) as elsewhere:
            calls = [elsewhere.operations.WaitOperation(request) for _ in range(10)]
            await client.until(lambda: client.engine.waiting == 10)
        await client.until(lambda: client.engine.waiting == 0)
        for call in calls:
            assert await call.code() is grpc.StatusCode.CANCELLED
        assert await client.get(started.name) == started


@pytest.mark.assertion(89)
async def test_any_number_of_waiting_calls_leaves_room_for_others(serving):
    async with serving() as client:
        started = await client.running(await client.run(LONG))
        waits = [asyncio.ensure_future(client.wait(started.name)) for _ in range(1000)]
        await client.until(lambda: client.engine.waiting == 1000)
        assert not (await client.get(started.name)).done
        await client.cancel(started.name)
        for done in await asyncio.gather(*waits):
            assert done.error.code == outlast.Code.CANCELLED


async def test_more_calls_than_may_wait_are_refused(serving):
    async with serving(max_waiters=3) as client:
        started = await client.running(await client.run(LONG))
        waits = [asyncio.ensure_future(client.wait(started.name)) for _ in range(3)]
        await client.until(lambda: client.engine.waiting == 3)
        refusal = await client.refused(client.wait(started.name))
        assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refusal.info.reason == "TOO_MANY_WAITERS"
        await client.cancel(started.name)
        await asyncio.gather(*waits)


@pytest.mark.assertion(90)
async def test_a_cancel_ends_the_calls_that_wait(serving):
    async with serving() as client:
        started = await client.running(await client.run(LONG))
        wait = asyncio.ensure_future(client.wait(started.name))
        await client.until(lambda: client.engine.waiting == 1)
        await client.cancel(started.name)
        assert (await wait).error.code == outlast.Code.CANCELLED


@pytest.mark.assertion(91)
async def test_a_server_that_stops_answers_the_calls_that_wait(serving):
    async with serving() as client:
        started = await client.running(await client.run(LONG))
        waits = [asyncio.ensure_future(client.wait(started.name)) for _ in range(10)]
        await client.until(lambda: client.engine.waiting == 10)
        stopping = asyncio.ensure_future(client.server.__aexit__(None, None, None))
        for waited in await asyncio.gather(*waits):
            assert waited == started
        assert not stopping.done()  # the operation has its grace
        again = asyncio.ensure_future(client.wait(started.name))
        await client.until(lambda: client.engine.waiting == 1)
        client.server.hurry()
        assert not (await again).done
        await stopping
