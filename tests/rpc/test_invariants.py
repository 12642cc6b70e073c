"""What holds for every snapshot of an operation, and what an operation's error says."""

import asyncio
from datetime import timedelta
from itertools import pairwise

import pytest
from google.protobuf import any_pb2, empty_pb2
from google.rpc import error_details_pb2
from outlastapi.script.v1 import script_pb2
from outlastapi.v1 import operations_admin_pb2

import outlast

LONG = {"sleep": {"seconds": 60}}


def packed(message):
    detail = any_pb2.Any()
    detail.Pack(message)
    return detail


ENDINGS = {
    "succeeded": [{"progress": {"completed": 1, "total": 2}}, {"answer": {"text": "yes"}}],
    "failed": [{"fail": {"code": 9, "message": "no"}}],
    "failed unexpectedly": [{"raise": "a secret of /etc/passwd"}],
    "ran out of attempts": [{"fail_attempts": {"attempts": 9, "code": 14}}],
    "succeeded at last": [{"fail_attempts": {"attempts": 2}}, {"answer": {"text": "yes"}}],
    "cancelled": [LONG],
}


@pytest.mark.assertion(39, 40, 41, 43, 44, 45, 50, 51, 102)
@pytest.mark.parametrize("steps", ENDINGS.values(), ids=ENDINGS.keys())
async def test_every_snapshot_is_whole_until_the_end_and_after(serving, steps):
    """The client checks each of them; here they come from everywhere at once."""
    async with serving() as client:
        started = await client.run(*steps, parent="p/1")
        over = asyncio.Event()
        results = []

        async def look():
            while not over.is_set():
                listed = (await client.page("p/1")).operations[0]
                for snapshot in (listed, await client.get(started.name)):
                    assert not (results and not snapshot.done)
                    if snapshot.done:
                        results.append(snapshot.SerializeToString(deterministic=True))

        async with asyncio.TaskGroup() as group:
            group.create_task(look())
            if steps == [LONG]:
                await client.running(started)
                await client.cancel(started.name)
            done = await client.done(started)
            await client.until(lambda: len(results) > 20)
            over.set()
        assert set(results) == {done.SerializeToString(deterministic=True)}
        assert (await client.page("p/1")).operations[0] == done


@pytest.mark.assertion(41)
async def test_a_result_never_changes_however_often_it_is_cancelled(serving):
    async with serving() as client:
        runs = [await client.run({"answer": {"text": str(n)}}) for n in range(30)]
        snapshots = {operation.name: set() for operation in runs}

        async def disturb(name):
            for _ in range(10):
                await client.cancel(name)
                operation = await client.get(name)
                if operation.done:
                    snapshots[name].add(operation.SerializeToString(deterministic=True))

        await asyncio.gather(*(disturb(operation.name) for operation in runs))
        for operation in runs:
            done = await client.done(operation)
            assert snapshots[operation.name] <= {done.SerializeToString(deterministic=True)}


@pytest.mark.assertion(42)
async def test_progress_and_counts_never_go_backwards(serving, scripted):
    go = asyncio.Event()

    async def work(_, operation):
        await go.wait()
        for number in range(1, 101):
            operation.metadata.steps_taken = number
            await operation.progress(completed=number, total=100, stage="count")
            await asyncio.sleep(0)

    async with serving(scripted(work)) as client:
        started = await client.run()
        go.set()
        seen = []
        while True:
            snapshot = await client.get(started.name)
            progress = client.metadata(snapshot).progress
            update = client.metadata(snapshot).update_time.ToNanoseconds()
            steps = client.unpack(snapshot.metadata).steps_taken
            seen.append((progress.completed, progress.percent, steps, update))
            if snapshot.done:
                break
        for before, after in pairwise(seen):
            assert all(old <= new for old, new in zip(before, after, strict=True))
        assert seen[-1][:3] == (100, 100, 100)


async def test_what_the_metadata_says_of_an_operation(serving):
    async with serving() as client:
        steps = [
            {"fail_attempts": {"attempts": 1, "code": 14}},
            {"progress": {"completed": 1, "total": 4, "message": "a quarter"}},
            {"progress": {"completed": 3, "total": 4, "message": "three"}},
        ]
        done = await client.finished(*steps, parent="p/1")
        own = client.unpack(done.metadata)
        assert own.steps_taken == 3
        assert dict(own.taken) == {"fail_attempts": 1, "progress": 2}
        metadata = own.operation
        assert metadata.verb == "outlastapi.script.v1.ScriptService/RunScript"
        assert metadata.target == "p/1"
        assert (metadata.attempt, metadata.max_attempts) == (2, 5)
        assert metadata.last_error.code == outlast.Code.UNAVAILABLE
        assert not metadata.dead_letter
        progress = metadata.progress
        assert (progress.completed, progress.total, progress.percent) == (3, 4, 75)
        assert progress.message == "three"
        kept = metadata.expire_time.ToDatetime() - metadata.end_time.ToDatetime()
        assert kept == timedelta(days=30)


@pytest.mark.assertion(45)
async def test_a_response_is_of_the_type_that_the_method_names(serving):
    async with serving() as client:
        done = await client.finished({"answer": {"text": "yes", "size": 3}})
        url = "type.googleapis.com/outlastapi.script.v1.RunScriptResponse"
        assert done.response.type_url == url
        expected = script_pb2.RunScriptResponse(text="yes", payload=bytes(3), attempt=1)
        assert client.unpack(done.response) == expected


@pytest.mark.assertion(46)
async def test_an_operation_that_answers_nothing_answers_an_empty_message(serving):
    async with serving() as client:
        done = await client.done(await client.erase())
        assert done.HasField("response")
        assert done.response.type_url == "type.googleapis.com/google.protobuf.Empty"
        assert done.response.value == b""
        assert client.unpack(done.response) == empty_pb2.Empty()


@pytest.mark.assertion(50, 52)
@pytest.mark.parametrize("code", range(1, 17))
async def test_an_operation_fails_with_the_code_and_message_of_its_handler(serving, code):
    info = error_details_pb2.ErrorInfo(
        reason="SHELF_FULL", domain="books.example.com", metadata={"shelf": "7"}
    )
    help_ = error_details_pb2.Help(links=[{"description": "shelves", "url": "https://e.example"}])
    status = {"code": code, "message": "full", "details": [packed(info), packed(help_)]}
    async with serving() as client:
        done = await client.finished({"fail": status})
        assert (done.error.code, done.error.message) == (code, "full")
        assert [client.unpack(detail) for detail in done.error.details] == [info, help_]


@pytest.mark.assertion(52)
async def test_an_error_without_details_gets_an_error_info(serving):
    async with serving() as client:
        done = await client.finished({"fail": {"code": 9, "message": "no"}})
        (info,) = (client.unpack(detail) for detail in done.error.details)
        assert (info.reason, info.domain) == ("SCRIPT_FAILED", "outlastapi")


@pytest.mark.assertion(51, 53, 59)
async def test_an_exception_of_a_handler_is_internal_and_keeps_its_text_to_itself(serving):
    async with serving() as client:
        done = await client.finished({"raise": "a secret of /etc/passwd"})
        assert done.error.code == outlast.Code.INTERNAL
        assert client.metadata(done).dead_letter
        assert b"secret" not in done.SerializeToString()
        request = operations_admin_pb2.ListOperationAttemptsRequest(name=done.name)
        attempts = await client.admin.ListOperationAttempts(request)
        assert len(attempts.attempts) == 5
        assert b"secret" not in attempts.SerializeToString()


@pytest.mark.assertion(53)
async def test_an_operation_beyond_its_time_is_said_to_be(serving, scripted):
    async def work(*_):
        await asyncio.Event().wait()

    async with serving(scripted(work, timeout=timedelta(milliseconds=50))) as client:
        done = await client.finished()
        assert done.error.code == outlast.Code.DEADLINE_EXCEEDED


@pytest.mark.assertion(53)
async def test_a_cancelled_operation_is_said_to_be(serving):
    async with serving() as client:
        started = await client.running(await client.run(LONG))
        await client.cancel(started.name)
        assert (await client.done(started)).error.code == outlast.Code.CANCELLED


@pytest.mark.assertion(120)
async def test_two_reads_of_a_running_operation_give_the_same_bytes(serving, scripted):
    reported = asyncio.Event()

    async def work(_, operation):
        operation.metadata.taken.update({str(n): n for n in reversed(range(50))})
        await operation.progress(completed=1, total=3, message="on the way")
        reported.set()
        await asyncio.Event().wait()

    async with serving(scripted(work)) as client:
        started = await client.run()
        await reported.wait()
        get = client.channel.unary_unary("/google.longrunning.Operations/GetOperation")
        request = b"\x0a" + bytes([len(started.name)]) + started.name.encode()
        assert len({await get(request) for _ in range(50)}) == 1
        page = client.channel.unary_unary("/google.longrunning.Operations/ListOperations")
        assert (await get(request)) in await page(b"")
