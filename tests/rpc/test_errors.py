"""The errors of RPCs, and of servers whose store is away."""

import asyncio
import re
from contextlib import contextmanager
from datetime import timedelta

import grpc
import pytest
from google.longrunning import operations_pb2
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import LocalizedMessage, RetryInfo
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
        assert refusal.message == "the service has a mistake, which the log of its server describes"
        assert f"RunScript: what {option} returns must be " in caplog.text
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


OVERLONG = {
    "message": {"message": "ü" * 100_000},
    "message of four-byte characters": {"message": "\U0001f600" * 100_000},
    "reason": {"reason": "X" * 9000},
    "domain": {"domain": "x" * 9000},
    "metadata": {"metadata": {"key": "v" * 100_000}},
    "many metadata": {"metadata": {f"k{number}": "v" for number in range(10_000)}},
    "detail": {"details": [LocalizedMessage(message="x" * 9000), RetryInfo()]},
    "many details": {"details": [RetryInfo()] * 10_000},
    "everything": {
        "message": "\U0001f600" * 9000,
        "reason": "X" * 9000,
        "domain": "\U0001f600" * 9000,
        "metadata": {"key": "v" * 3000},
        "details": [LocalizedMessage(message="x" * 2000), LocalizedMessage(message="x" * 2000)],
    },
}


def too_long(kind=outlast.ServiceError, **said):
    said = {"message": "the shelf is full", "reason": "SHELF_FULL", **said}
    return kind(outlast.Code.FAILED_PRECONDITION, **said)


@pytest.mark.assertion(58)
@pytest.mark.parametrize("said", OVERLONG.values(), ids=OVERLONG.keys())
async def test_trailers_hold_an_error_whatever_a_service_says(serving, scripted, said):
    def validate(_):
        raise too_long(**said)

    async with serving(scripted(validate=validate)) as client:
        request = script_pb2.RunScriptRequest()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.script.RunScript(request, timeout=20)
        error = caught.value
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert client.size_on_the_wire(error) <= 8 * 1024
        (packed,) = (value for _, value in error.trailing_metadata())
        status = status_pb2.Status.FromString(packed)
        info = client.unpack(status.details[0])
        assert said.get("message", "the shelf is full").startswith(status.message.rstrip("…"))
        assert len(status.message) > 15
        assert info.reason == said.get("reason", "SHELF_FULL")[:63]
        assert info.domain == said.get("domain", "outlastapi")[:253]


async def test_a_detail_that_does_not_fit_leaves_those_that_do(serving, scripted):
    def validate(_):
        raise too_long(**OVERLONG["detail"])

    async with serving(scripted(validate=validate)) as client:
        refusal = await client.refused(client.run())
        assert refusal.detail(RetryInfo) is not None
        assert refusal.detail(LocalizedMessage) is None


@pytest.mark.parametrize("said", OVERLONG.values(), ids=OVERLONG.keys())
async def test_an_operation_holds_its_error_whatever_its_handler_says(serving, scripted, said):
    async def work(*_):
        raise too_long(outlast.OperationFailed, **said)

    async with serving(scripted(work)) as client:
        request = script_pb2.RunScriptRequest()
        started = await client.script.RunScript(request, timeout=20)
        wait = operations_pb2.WaitOperationRequest(name=started.name)
        done = await client.operations.WaitOperation(wait, timeout=20)
        assert done.error.code == outlast.Code.FAILED_PRECONDITION
        assert client.unpack(done.error.details[0]).reason == said.get("reason", "SHELF_FULL")[:63]
        assert done.ByteSize() < 200_000


WRONG = {
    "field": ("f" * 9000, "wrong"),
    "description": ("parent", "\U0001f600" * 9000),
    "text that cannot be sent": ("a\ud800", "b\ud800"),
}


@pytest.mark.assertion(58)
@pytest.mark.parametrize(("field", "description"), WRONG.values(), ids=WRONG.keys())
async def test_an_argument_is_refused_whatever_is_said_of_it(serving, scripted, field, description):
    def validate(_):
        raise outlast.InvalidArgumentError(field, description)

    async with serving(scripted(validate=validate)) as client:
        refusal = await client.refused(client.run(), field=re.compile(".+"))
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert field[:100].encode(errors="replace").decode() in refusal.field


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
