"""Starting an operation."""

import asyncio
from uuid import uuid4

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2
from outlastapi.script.v1 import script_pb2

import outlast

INVALID = {
    "a step without an action": ({}, "steps[1]"),
    "a negative size": ({"answer": {"size": -1}}, "steps[1].answer.size"),
    "a size that is out of all proportion": ({"answer": {"size": 2**40}}, "steps[1].answer.size"),
    "a negative count": ({"progress": {"completed": -1}}, "steps[1].progress.completed"),
    "a negative total": ({"progress": {"total": -1}}, "steps[1].progress.total"),
    "a negative number of attempts": (
        {"fail_attempts": {"attempts": -1}},
        "steps[1].fail_attempts.attempts",
    ),
    "a code that there is not": (
        {"fail_attempts": {"attempts": 1, "code": 17}},
        "steps[1].fail_attempts.code",
    ),
    "a negative code": (
        {"fail_attempts": {"attempts": 1, "code": -1}},
        "steps[1].fail_attempts.code",
    ),
    "an error with code OK": ({"fail": {"code": 0, "message": "no"}}, "steps[1].fail.code"),
    "an error without a message": ({"fail": {"code": 3}}, "steps[1].fail.message"),
    "an error with a detail of no known type": (
        {"fail": {"code": 3, "message": "no", "details": [{"type_url": "x/y.Z"}]}},
        "steps[1].fail.details[0]",
    ),
    "a negative time": ({"sleep": duration_pb2.Duration(seconds=-1)}, "steps[1].sleep"),
    "a time with too many nanoseconds": (
        {"block": duration_pb2.Duration(nanos=10**9)},
        "steps[1].block",
    ),
    "a time beyond measure": ({"sleep": duration_pb2.Duration(seconds=2**62)}, "steps[1].sleep"),
    "a durable step without a key": ({"durable": {}}, "steps[1].durable.key"),
    "a durable step with an endless key": (
        {"durable": {"key": "k" * 1000}},
        "steps[1].durable.key",
    ),
}

TOO_LATE = {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}
"""How a start ends whose deadline passes, or that the store does not answer before it does."""


@pytest.mark.assertion(13)
async def test_a_start_returns_before_the_work_is_done(serving):
    async with serving() as client:
        operation = await client.run({"sleep": {"seconds": 30}})
        assert operation.name
        assert not operation.done
        assert operation.metadata.Is(script_pb2.RunScriptMetadata.DESCRIPTOR)


@pytest.mark.assertion(13)
async def test_a_start_is_answered_while_every_slot_is_taken(serving):
    async with serving(concurrency=1) as client:
        await client.running(await client.run({"sleep": {"seconds": 30}}))
        queued = await client.run()
        assert client.metadata(queued).state == client.metadata(queued).PENDING


@pytest.mark.assertion(14)
@pytest.mark.parametrize(("step", "field"), INVALID.values(), ids=INVALID.keys())
async def test_an_invalid_request_is_refused_and_starts_nothing(serving, step, field):
    async with serving() as client:
        refusal = await client.refused(client.run({"raise": "never"}, step))
        assert (refusal.code, refusal.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)
        assert refusal.info.reason == "INVALID_FIELD"
        assert await client.names() == []


@pytest.mark.assertion(14)
async def test_a_script_has_an_end(serving):
    async with serving() as client:
        answer = [{"answer": {"text": "x"}}]
        refusal = await client.refused(client.run(*answer * 1001))
        assert (refusal.code, refusal.field) == (grpc.StatusCode.INVALID_ARGUMENT, "steps")
        refusal = await client.refused(client.erase(*answer))
        assert refusal.field == "steps[0].answer"
        keys = [{"durable": {"key": "same"}}] * 2
        refusal = await client.refused(client.run(*keys))
        assert refusal.field == "steps[1].durable.key"
        assert await client.names() == []
        assert (await client.finished(*answer * 1000)).HasField("response")


@pytest.mark.assertion(14)
@pytest.mark.parametrize(
    "parent", ["/", "p/", "/p", "p//q", "p q", "../p", "p\0", "ü", "x" * 600, "p/*", "%70"]
)
async def test_an_invalid_parent_is_refused_and_starts_nothing(serving, parent):
    async with serving() as client:
        refusal = await client.refused(client.run(parent=parent))
        assert (refusal.code, refusal.field) == (grpc.StatusCode.INVALID_ARGUMENT, "parent")
        assert await client.names() == []


@pytest.mark.assertion(15)
async def test_a_missing_target_is_refused_and_starts_nothing(serving, scripted):
    async def validate(request):
        message = f"{request.parent} not found"
        raise outlast.ServiceError(
            outlast.Code.NOT_FOUND,
            message,
            reason="BOOK_NOT_FOUND",
            domain="books.example.com",
            metadata={"name": request.parent},
        )

    async with serving(scripted(validate=validate)) as client:
        refusal = await client.refused(client.run(parent="books/1"))
        assert refusal.code is grpc.StatusCode.NOT_FOUND
        assert refusal.message == "books/1 not found"
        assert refusal.info.reason == "BOOK_NOT_FOUND"
        assert refusal.info.domain == "books.example.com"
        assert dict(refusal.info.metadata) == {"name": "books/1"}
        assert await client.names("books/1") == []


async def test_a_check_may_ask_the_servicer(serving, scripted):
    asked = []

    def validate(servicer, request):
        asked.append((servicer, request.parent))

    servicer = scripted(validate=validate)
    async with serving(servicer) as client:
        await client.run(parent="books/1")
    assert asked == [(servicer, "books/1")]


@pytest.mark.assertion(16)
async def test_a_failure_during_the_work_is_the_operations_error(serving):
    async with serving() as client:
        started = await client.run({"fail": {"code": 9, "message": "the shelf is full"}})
        assert not started.HasField("error")
        done = await client.done(started)
        assert (done.error.code, done.error.message) == (9, "the shelf is full")


@pytest.mark.assertion(17)
async def test_an_operation_can_be_read_the_moment_it_was_returned(serving, connected):
    async with serving() as client, connected(client.server.address) as elsewhere:

        async def start_and_get():
            for _ in range(50):
                operation = await client.run()
                assert (await elsewhere.get(operation.name)).name == operation.name

        await asyncio.gather(*(start_and_get() for _ in range(20)))


@pytest.mark.assertion(18)
async def test_instant_work_shows_the_same_result_wherever_it_is_read(serving):
    async with serving() as client:
        started = await client.run({"answer": {"text": "at once"}})
        done = await client.done(started)
        got = await client.get(started.name)
        assert client.unpack(done.response).text == "at once"
        assert got == done
        assert not started.done or started == done


@pytest.mark.assertion(19)
async def test_a_request_that_is_only_checked_starts_nothing(serving, tmp_path):
    witness = tmp_path / "witness"
    durable = {"durable": {"key": "a", "witness": str(witness)}}
    async with serving() as client:
        request = script_pb2.RunScriptRequest(
            steps=[durable], parent="p/1", validate_only=True, request_id=str(uuid4())
        )
        checked = await client.script.RunScript(request)
        assert checked.done
        assert checked.name == ""
        assert checked.response.Is(script_pb2.RunScriptResponse.DESCRIPTOR)
        assert checked.metadata.Is(script_pb2.RunScriptMetadata.DESCRIPTOR)
        max_attempts = client.metadata(checked).max_attempts
        assert await client.names("p/1") == []
        # Its request_id is as good as new.
        request.validate_only = False
        done = await client.done(await client.script.RunScript(request))
        assert client.metadata(done).max_attempts == max_attempts
        assert len(witness.read_text().splitlines()) == 1


@pytest.mark.assertion(19)
@pytest.mark.parametrize("step", [step for step, _ in INVALID.values()], ids=INVALID.keys())
async def test_a_check_fails_as_the_start_would(serving, step):
    async with serving() as client:
        checked = await client.refused(client.run(step, validate_only=True))
        live = await client.refused(client.run(step))
        assert checked == live


@pytest.mark.assertion(20)
async def test_the_same_request_id_gives_the_same_operation(serving, tmp_path):
    witness = tmp_path / "witness"
    step = {"durable": {"key": "a", "witness": str(witness)}}
    request_id = str(uuid4())
    async with serving() as client:
        first = await client.run(step, request_id=request_id)
        again = await client.run(step, request_id=request_id)
        assert again.name == first.name
        done = await client.done(first)
        after = await client.run(step, request_id=request_id)
        assert after == done
        assert await client.names() == [first.name]
    assert len(witness.read_text().splitlines()) == 1


@pytest.mark.assertion(20)
async def test_the_same_request_id_at_once_gives_the_same_operation(serving, tmp_path):
    witness = tmp_path / "witness"
    step = {"durable": {"key": "a", "witness": str(witness)}}
    request_id = str(uuid4())
    async with serving() as client:
        starts = [client.run(step, request_id=request_id) for _ in range(50)]
        operations = await asyncio.gather(*starts)
        (name,) = {operation.name for operation in operations}
        await client.wait(name)
        assert await client.names() == [name]
    assert len(witness.read_text().splitlines()) == 1


async def test_a_request_id_belongs_to_its_parent_and_its_method(serving):
    request_id = str(uuid4())
    async with serving() as client:
        first = await client.run(request_id=request_id, parent="p/1")
        second = await client.run(request_id=request_id, parent="p/2")
        assert first.name != second.name


@pytest.mark.assertion(21)
async def test_the_same_request_id_with_another_request_is_refused(serving):
    request_id = str(uuid4())
    async with serving() as client:
        first = await client.run(request_id=request_id)
        other = client.run({"answer": {"text": "other"}}, request_id=request_id)
        refusal = await client.refused(other)
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refusal.field == "request_id"
        assert refusal.info.reason == "REQUEST_ID_REUSED"
        assert await client.names() == [first.name]


@pytest.mark.assertion(22)
async def test_the_case_of_a_request_id_does_not_matter(serving):
    request_id = "0b5E3c1a-7D2f-4e6b-9A8c-5f0d1e2c3b4a"
    async with serving() as client:
        names = {
            (await client.run(request_id=each)).name
            for each in (request_id, request_id.upper(), request_id.lower())
        }
    assert len(names) == 1


@pytest.mark.assertion(23)
@pytest.mark.parametrize(
    "request_id",
    [
        "x",
        "0b5e3c1a7d2f4e6b9a8c5f0d1e2c3b4a",
        "{0b5e3c1a-7d2f-4e6b-9a8c-5f0d1e2c3b4a}",
        "0b5e3c1a-7d2f-1e6b-9a8c-5f0d1e2c3b4a",
        "0b5e3c1a-7d2f-4e6b-9a8c-5f0d1e2c3b4a ",
        "0b5e3c1a-7d2f-4e6b-1a8c-5f0d1e2c3b4a",
        "é" * 36,
        "0" * 100_000,
    ],
)
async def test_a_request_id_that_is_no_uuid_is_refused(serving, request_id):
    async with serving() as client:
        refusal = await client.refused(client.run(request_id=request_id))
        assert (refusal.code, refusal.field) == (grpc.StatusCode.INVALID_ARGUMENT, "request_id")
        assert await client.names() == []


@pytest.mark.assertion(24)
async def test_a_request_id_whose_start_was_refused_can_be_used_again(serving):
    request_id = str(uuid4())
    async with serving() as client:
        await client.refused(client.run({}, request_id=request_id))
        accepted = await client.run(request_id=request_id)
        assert await client.names() == [accepted.name]


@pytest.mark.assertion(24, 25)
async def test_a_second_operation_on_an_exclusive_resource_is_refused_until_the_first_ends(
    serving,
):
    request_id = str(uuid4())
    async with serving() as client:
        first = await client.run({"sleep": {"seconds": 30}}, exclusive_key="books/1")
        second = {"exclusive_key": "books/1", "request_id": request_id}
        for _ in range(2):
            refusal = await client.refused(client.run(**second))
            assert refusal.code is grpc.StatusCode.ABORTED
            assert refusal.info.reason == "PARALLEL_OPERATION"
            assert refusal.info.metadata["operation"] == first.name
            assert "books/1" in refusal.message
        other = await client.run(exclusive_key="books/2")
        assert set(await client.names()) == {first.name, other.name}
        await client.cancel(first.name)
        await client.done(first)
        assert (await client.done(await client.run(**second))).HasField("response")


@pytest.mark.assertion(25)
async def test_of_parallel_starts_on_an_exclusive_resource_one_is_accepted(serving):
    async with serving() as client:
        starts = [
            client.run({"sleep": {"seconds": 30}}, exclusive_key="books/1") for _ in range(20)
        ]
        results = await asyncio.gather(*starts, return_exceptions=True)
        refused = [each for each in results if isinstance(each, grpc.aio.AioRpcError)]
        assert {error.code() for error in refused} == {grpc.StatusCode.ABORTED}
        assert len(refused) == 19
        assert len(await client.names()) == 1


@pytest.mark.assertion(27)
async def test_a_full_queue_is_said_to_be_full(serving):
    async with serving(execute=False, max_pending=3) as client:
        kept = [(await client.run()).name for _ in range(3)]
        refusal = await client.refused(client.run())
        assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refusal.info.reason == "QUEUE_FULL"
        assert refusal.detail(error_details_pb2.RetryInfo).retry_delay.ToSeconds() >= 1
        assert sorted(await client.names()) == sorted(kept)
        await client.cancel(kept[0])
        assert (await client.run()).name


@pytest.mark.assertion(28)
async def test_a_start_that_its_caller_gives_up_leaves_a_whole_operation_or_none(serving):
    async with serving() as client:
        request = script_pb2.RunScriptRequest(parent="p/1")
        for turn in range(60):
            call = client.script.RunScript(request)
            for _ in range(turn):
                await asyncio.sleep(0)
            call.cancel()
        # What comes after in the same connection is answered after.
        await client.run()
        for name in await client.names("p/1"):
            assert (await client.wait(name)).HasField("response")


@pytest.mark.assertion(28)
async def test_a_start_whose_deadline_passes_leaves_a_whole_operation_or_none(serving):
    async with serving() as client:
        request = script_pb2.RunScriptRequest(parent="p/1")
        for number in range(30):
            try:
                await client.script.RunScript(request, timeout=0.0002 * number)
            except grpc.aio.AioRpcError as error:
                assert error.code() in TOO_LATE  # noqa: PT017
        await client.run()
        for name in await client.names("p/1"):
            assert (await client.wait(name)).HasField("response")
