"""GetOperation."""

import asyncio

import grpc
import pytest
from google.longrunning import operations_pb2


@pytest.mark.assertion(29)
async def test_a_known_operation_is_returned(serving):
    async with serving() as client:
        done = await client.finished({"answer": {"text": "here"}})
        assert await client.get(done.name) == done


@pytest.mark.assertion(30, 33, 57)
@pytest.mark.parametrize(
    "name",
    [
        "operations/unknown",
        "operations/**",
        "operations/-",
        "projects/p/operations/unknown",
        "operations/operations/operations/x",
    ],
)
async def test_an_unknown_operation_is_not_found(serving, name):
    async with serving() as client:
        refusal = await client.refused(client.get(name))
        assert refusal.code is grpc.StatusCode.NOT_FOUND
        assert refusal.info.reason == "OPERATION_NOT_FOUND"
        assert refusal.info.metadata["name"] == name
        assert name in refusal.message


@pytest.mark.assertion(31, 32, 56)
@pytest.mark.parametrize("name", ["", "foo", "operations", "operations/", "a/operations", "a/b"])
async def test_a_name_that_is_no_operations_is_invalid(serving, name):
    async with serving() as client:
        refusal = await client.refused(client.get(name))
        assert (refusal.code, refusal.field) == (grpc.StatusCode.INVALID_ARGUMENT, "name")


@pytest.mark.assertion(34)
async def test_reading_changes_nothing(serving):
    async with serving() as client:
        name = (await client.finished({"progress": {"completed": 1, "total": 2}})).name
        request = operations_pb2.GetOperationRequest(name=name)
        get = client.channel.unary_unary(
            "/google.longrunning.Operations/GetOperation",
            request_serializer=operations_pb2.GetOperationRequest.SerializeToString,
        )
        answers = {await get(request) for _ in range(1000)}
    assert len(answers) == 1


@pytest.mark.assertion(35)
async def test_reading_does_not_wait_for_the_work(serving):
    async with serving(concurrency=4) as client:
        runs = [await client.run({"sleep": {"seconds": 60}}) for _ in range(8)]
        await client.until(lambda: client.engine.executor.running == 4)
        async with asyncio.timeout(20):
            for _ in range(25):
                for operation in runs:
                    assert not (await client.get(operation.name)).done


@pytest.mark.assertion(38)
@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("x-goog-request-params", "name=operations%2Fother")],
        [("x-goog-request-params", "parent=projects/other")],
        [("x-goog-request-params", "&&=%%%")],
        [("x-goog-request-params", "name=operations/x")] * 20,
        [
            ("x-goog-api-client", "gl-python/3.11"),
            ("x-goog-user-project", "somebody-elses"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ],
    ],
)
async def test_headers_of_clients_do_not_change_the_answer(serving, headers):
    async with serving() as client:
        done = await client.finished(parent="projects/p")
        get = operations_pb2.GetOperationRequest(name=done.name)
        assert await client.operations.GetOperation(get, metadata=headers) == done
        page = operations_pb2.ListOperationsRequest(name="projects/p")
        listed = await client.operations.ListOperations(page, metadata=headers)
        assert list(listed.operations) == [done]
        unknown = operations_pb2.GetOperationRequest(name="operations/unknown")
        refusal = await client.refused(client.operations.GetOperation(unknown, metadata=headers))
        assert refusal.code is grpc.StatusCode.NOT_FOUND
