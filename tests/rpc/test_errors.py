"""The errors of RPCs, and of servers whose store is away."""

import asyncio
from contextlib import contextmanager
from datetime import timedelta

import grpc
import pytest
from google.longrunning import operations_pb2
from outlastapi.script.v1 import script_pb2
from outlastapi.v1 import operations_admin_pb2 as admin_pb2

import outlast
from outlast.domain.errors import StoreUnavailableError

UNEXPECTED = [
    RuntimeError("a secret of /etc/passwd"),
    KeyError("secret"),
    SystemExit("secret"),
    KeyboardInterrupt("secret"),
    asyncio.CancelledError("secret"),
    AssertionError(),
]


@pytest.mark.assertion(51, 55, 59)
@pytest.mark.parametrize("error", UNEXPECTED, ids=lambda error: type(error).__name__)
async def test_an_unexpected_error_of_an_rpc_keeps_its_text_to_itself(serving, scripted, error):
    def validate(request):
        if request.parent:
            raise error

    async with serving(scripted(validate=validate)) as client:
        refusal = await client.refused(client.run(parent="p/1"))
        assert refusal.code is grpc.StatusCode.INTERNAL
        assert refusal.info.reason == "UNEXPECTED_FAILURE"
        assert refusal.message == "the request failed unexpectedly"
        assert b"secret" not in refusal.status.SerializeToString()
        assert (await client.finished()).HasField("response")


@pytest.mark.parametrize("option", ["exclusive", "target"])
@pytest.mark.parametrize("value", [None, 5, "a\ud800"], ids=repr)
async def test_a_resource_that_is_no_text_is_refused_and_logged(
    serving, scripted, caplog, option, value
):
    async with serving(scripted(**{option: lambda _: value})) as client:
        refusal = await client.refused(client.run())
        assert refusal.code is grpc.StatusCode.INTERNAL
        assert f"RunScript: what {option} returns must be " in refusal.message
        assert refusal.message in caplog.text
        assert await client.names() == []


@pytest.mark.assertion(55)
async def test_a_validation_that_awaits_what_was_cancelled_is_answered(serving, scripted):
    async def validate(_):
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async with serving(scripted(validate=validate)) as client:
        refusal = await client.refused(client.run())
        assert refusal.code is grpc.StatusCode.INTERNAL


@pytest.mark.assertion(55)
async def test_a_service_chooses_its_errors(serving, scripted):
    def validate(_):
        message = "the shelf is full"
        raise outlast.ServiceError(
            outlast.Code.FAILED_PRECONDITION, message, reason="SHELF_FULL", domain="b.example.com"
        )

    async with serving(scripted(validate=validate)) as client:
        refusal = await client.refused(client.run())
        assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
        assert refusal.message == "the shelf is full"
        assert (refusal.info.reason, refusal.info.domain) == ("SHELF_FULL", "b.example.com")


@pytest.mark.assertion(58)
async def test_the_details_of_an_error_stay_small_whatever_a_service_says(serving, scripted):
    def validate(_):
        raise outlast.ServiceError(
            outlast.Code.FAILED_PRECONDITION, "ü" * 100_000, metadata={"key": "v" * 100_000}
        )

    async with serving(scripted(validate=validate)) as client:
        refusal = await client.refused(client.run())
        assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION


@contextmanager
def away(store, times=10**9):
    """Have a store not answer, so many times."""
    left = times

    def absent(original):
        async def call(*arguments, **options):
            nonlocal left
            if left > 0:
                left -= 1
                raise StoreUnavailableError("the disk is gone")
            return await original(*arguments, **options)

        return call

    names = ("insert", "get", "list_page", "request_cancel", "delete", "attempts", "stats")
    originals = {name: getattr(store, name) for name in names}
    for name, original in originals.items():
        setattr(store, name, absent(original))
    store.peek = lambda _: None
    try:
        yield
    finally:
        for name in (*originals, "peek"):
            delattr(store, name)


def calls(client, name):
    """Return everything that asks the store, as functions of a timeout."""
    stubs = {
        client.operations.GetOperation: operations_pb2.GetOperationRequest(name=name),
        client.operations.WaitOperation: operations_pb2.WaitOperationRequest(name=name),
        client.operations.CancelOperation: operations_pb2.CancelOperationRequest(name=name),
        client.operations.ListOperations: operations_pb2.ListOperationsRequest(),
        client.script.RunScript: script_pb2.RunScriptRequest(),
        client.admin.ListOperationAttempts: admin_pb2.ListOperationAttemptsRequest(name=name),
        client.admin.GetQueueStatistics: admin_pb2.GetQueueStatisticsRequest(),
        client.operations.DeleteOperation: operations_pb2.DeleteOperationRequest(name=name),
    }
    return [
        lambda seconds, stub=stub, request=request: stub(request, timeout=seconds)
        for stub, request in stubs.items()
    ]


@pytest.mark.assertion(60)
async def test_a_store_that_is_away_is_unavailable_and_nothing_else(serving):
    async with serving() as client:
        done = await client.finished()
        with away(client.engine.store):
            refusals = [client.refused(call(0.5)) for call in calls(client, done.name)]
            for refusal in await asyncio.gather(*refusals):
                assert refusal.code is grpc.StatusCode.UNAVAILABLE
                assert refusal.info.reason == "STORE_UNAVAILABLE"
        assert await client.get(done.name) == done


@pytest.mark.assertion(60)
async def test_a_store_that_is_away_for_a_moment_is_not_noticed(serving):
    async with serving() as client:
        done = await client.finished()
        for call in calls(client, done.name):
            with away(client.engine.store, times=3):
                await call(20)


async def test_the_store_is_waited_for_as_long_as_the_server_says(serving):
    async with serving(store_patience=timedelta(milliseconds=200)) as client:
        with away(client.engine.store):
            refusal = await client.refused(client.get("operations/x"))
        assert refusal.code is grpc.StatusCode.UNAVAILABLE
