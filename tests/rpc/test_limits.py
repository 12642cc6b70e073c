"""Overload: what is over a limit is refused, and leaves nothing behind."""

import asyncio

import grpc
import pytest
from google.longrunning import operations_pb2
from google.rpc import error_details_pb2
from outlastapi.script.v1 import script_pb2

LONG = {"sleep": {"seconds": 60}}
READS_LITTLE = [("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1)]
"""Options of a channel that does not take in what nobody has asked for."""


async def check_refused(client, call, reason):
    refusal = await client.refused(call)
    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refusal.info.reason == reason
    assert refusal.detail(error_details_pb2.RetryInfo).retry_delay.ToSeconds() >= 1


async def test_a_method_whose_queue_is_full_refuses_and_others_do_not(serving, scripted):
    async with serving(scripted(max_pending=2), execute=False, max_pending=3) as client:
        kept = [(await client.run()).name for _ in range(2)]
        await check_refused(client, client.run(), "QUEUE_FULL")
        kept.append((await client.erase()).name)
        await check_refused(client, client.erase(), "QUEUE_FULL")
        assert sorted(await client.names()) == sorted(kept)
        await client.cancel(kept[0])
        assert (await client.run()).name


async def test_more_calls_than_may_be_under_way_are_refused(serving, scripted):
    go, checking = asyncio.Event(), asyncio.Semaphore(0)

    async def validate(_request):
        checking.release()
        await go.wait()

    async with serving(scripted(validate=validate), max_calls=2) as client:
        under_way = [asyncio.ensure_future(client.run()) for _ in range(2)]
        for _ in under_way:
            await checking.acquire()
        await check_refused(client, client.run(), "TOO_MANY_CALLS")
        await check_refused(client, client.page(), "TOO_MANY_CALLS")
        go.set()
        started = [(await call).name for call in under_way]
        assert sorted(await client.names()) == sorted(started)


async def test_calls_that_wait_do_not_count_as_under_way(serving):
    async with serving(max_calls=2) as client:
        running = await client.running(await client.run(LONG))
        waiting = [asyncio.ensure_future(client.wait(running.name)) for _ in range(5)]
        await client.cancel(running.name)
        for call in waiting:
            assert (await call).error.code == grpc.StatusCode.CANCELLED.value[0]


async def test_a_call_that_ends_badly_makes_room_for_another(serving):
    async with serving(max_calls=2) as client:
        for _ in range(4):
            refusal = await client.refused(client.get("operations/none"))
            assert refusal.code is grpc.StatusCode.NOT_FOUND


async def once_there_is_room(call):
    """Return what a call answers that may be refused until the server knows what has ended."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise


@pytest.mark.parametrize("end", ["read", "cancel"])
@pytest.mark.parametrize("method", ["GetOperation", "WaitOperation"])
async def test_answers_that_nobody_reads_count_until_they_are_read_or_given_up(
    serving, method, end
):
    async with (
        serving(max_calls=2, max_waiters=2) as client,
        grpc.aio.insecure_channel(client.server.address, options=READS_LITTLE) as slow,
    ):
        done = await client.finished({"answer": {"size": 1_000_000}})
        request = operations_pb2.GetOperationRequest(name=done.name)  # as of a wait without limit
        asked = request.SerializeToString()
        # As a stream an answer waits to be read; most of this one does so in the server.
        ask = slow.unary_stream(f"/google.longrunning.Operations/{method}")
        ends = await once_there_is_room(lambda: unread(ask, asked))
        other = await once_there_is_room(lambda: unread(ask, asked))
        again, reason = {
            "GetOperation": (client.get, "TOO_MANY_CALLS"),
            "WaitOperation": (client.wait, "TOO_MANY_WAITERS"),
        }[method]
        await check_refused(client, again(done.name), reason)
        if end == "read":
            assert operations_pb2.Operation.FromString(await ends.read()) == done
        else:
            ends.cancel()
        assert await once_there_is_room(lambda: again(done.name)) == done
        other.cancel()


async def unread(ask, request):
    """Make a call, and return it when it is answered."""
    call = ask(request, timeout=60)
    if await call.initial_metadata() is None:
        await call.read()  # raises
    return call


async def test_a_call_whose_caller_has_gone_counts_until_its_handler_ends(serving, scripted):
    go, checking, gone = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def validate(request):
        if not request.parent:
            return
        checking.set()
        try:
            await go.wait()
        except asyncio.CancelledError:
            gone.set()
            await go.wait()

    async with serving(scripted(validate=validate), max_calls=1) as client:
        call = asyncio.ensure_future(client.run(parent="p"))
        await checking.wait()
        call.cancel()
        await gone.wait()
        await check_refused(client, client.run(), "TOO_MANY_CALLS")
        go.set()
        assert (await once_there_is_room(client.run)).name


@pytest.mark.parametrize("same", [True, False], ids=["one request", "different requests"])
async def test_200_starts_at_once_with_one_request_id_give_one_operation(serving, scripted, same):
    executions = []

    async def work(request, _operation):
        executions.append(request.parent)

    request_id = "0b4bd5cc-79b0-4f38-8f5d-f0a4bb1f2d6a"
    async with serving(scripted(work)) as client:
        requests = [
            script_pb2.RunScriptRequest(
                parent="p/1", request_id=request_id, steps=[{"sleep": {"nanos": 0 if same else n}}]
            )
            for n in range(200)
        ]
        answers = await asyncio.gather(
            *(client.script.RunScript(request) for request in requests), return_exceptions=True
        )
        names = {answer.name for answer in answers if not isinstance(answer, Exception)}
        refused = [answer for answer in answers if isinstance(answer, Exception)]
        assert len(names) == 1
        assert len(refused) == (0 if same else 199)
        assert {error.code() for error in refused} <= {grpc.StatusCode.INVALID_ARGUMENT}
        (name,) = names
        assert (await client.wait(name)).HasField("response")
        assert await client.names("p/1") == [name]
        assert executions == ["p/1"]
