"""RetryInfo that a handler raises, of its own or of a server that it called."""

from datetime import timedelta

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from outlastapi.script.v1 import script_pb2
from outlastapi.v1 import operations_admin_pb2 as admin_pb2

import outlast

DELAY = timedelta(milliseconds=300)
INFO = error_details_pb2.RetryInfo(retry_delay={"nanos": 300_000_000})
# By the policy alone nothing would be tried again while a test lasts.
PATIENT = outlast.RetryPolicy(
    initial_backoff=timedelta(hours=1), max_backoff=timedelta(hours=1), jitter=0
)


def rpc_error(*details, broken=False):
    """Return what a call of another server raises."""
    status = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="a secret of theirs")
    for detail in details:
        status.details.add().Pack(detail)
    packed = b"\xff" if broken else status.SerializeToString()
    return grpc.aio.AioRpcError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(("other", "x"), ("grpc-status-details-bin", packed)),
        "a secret of theirs",
    )


ERRORS = {
    "a delay": lambda: outlast.OperationFailed(
        outlast.Code.ABORTED, "out of paper", retry_delay=DELAY
    ),
    "a detail": lambda: outlast.OperationFailed(
        outlast.Code.ABORTED, "out of paper", details=[INFO]
    ),
    "a detail of a service's error": lambda: outlast.ServiceError(
        outlast.Code.ABORTED, "out of paper", details=[INFO]
    ),
    "the trailers of a call": lambda: rpc_error(INFO),
}


@pytest.mark.parametrize("error", ERRORS)
async def test_a_retry_waits_for_the_delay_that_an_error_asks_for(serving, scripted, error):
    async def work(_, operation):
        if operation.attempt == 1:
            failure = ERRORS[error]()
            raise failure
        return script_pb2.RunScriptResponse(attempt=operation.attempt)

    async with serving(scripted(work, retry=PATIENT)) as client:
        done = await client.finished()
        assert client.unpack(done.response).attempt == 2
        request = admin_pb2.ListOperationAttemptsRequest(name=done.name)
        first, second = (await client.admin.ListOperationAttempts(request, timeout=20)).attempts
        waited = second.start_time.ToDatetime() - first.end_time.ToDatetime()
        assert DELAY <= waited < timedelta(minutes=1)


async def test_a_delay_of_its_own_goes_before_that_of_a_detail(serving, scripted):
    async def work(_, operation):
        if operation.attempt == 1:
            raise outlast.OperationFailed(
                outlast.Code.ABORTED,
                "out of paper",
                retry_delay=timedelta(),
                details=[error_details_pb2.RetryInfo(retry_delay={"seconds": 3600})],
            )

    async with serving(scripted(work, retry=PATIENT)) as client:
        assert (await client.finished()).HasField("response")


async def test_what_another_server_said_is_not_told(serving, scripted):
    async def work(*_):
        raise rpc_error(INFO)

    retry = outlast.RetryPolicy(max_attempts=1)
    async with serving(scripted(work, retry=retry)) as client:
        dead = await client.finished()
        assert client.metadata(dead).dead_letter
        assert dead.error.code == code_pb2.INTERNAL
        assert "secret" not in str(dead)


@pytest.mark.parametrize(
    "error",
    [rpc_error(), rpc_error(broken=True), grpc.RpcError()],
    ids=["without a delay", "broken", "without trailers"],
)
async def test_a_call_that_asks_for_no_delay_is_retried_by_the_policy(serving, scripted, error):
    async def work(*_):
        raise error

    async with serving(scripted(work, retry=PATIENT)) as client:
        operation = await client.run()
        name = operation.name
        while not client.metadata(operation).HasField("next_attempt_time"):
            operation = await client.wait(name, 0.01)
        metadata = client.metadata(operation)
        waits = metadata.next_attempt_time.ToDatetime() - metadata.update_time.ToDatetime()
        assert waits == timedelta(hours=1)
