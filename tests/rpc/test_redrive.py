"""RedriveOperation and RedriveOperations of the admin service."""

import asyncio
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from outlastapi.script.v1 import script_pb2
from outlastapi.v1 import operations_admin_pb2 as admin_pb2

import outlast

ONCE = outlast.RetryPolicy(max_attempts=1)
JAMMED = {"fail_attempts": {"attempts": 100, "code": 14}}
LONG = {"sleep": {"seconds": 60}}


async def redrive(client, name):
    request = admin_pb2.RedriveOperationRequest(name=name)
    return client.check(await client.admin.RedriveOperation(request, timeout=20))


async def redrive_all(client, **fields):
    """Redrive what a request finds; return the pairs of names and how many were skipped."""
    request = admin_pb2.RedriveOperationsRequest(**fields)
    redriven, skipped = [], 0
    while True:
        page = await client.admin.RedriveOperations(request, timeout=20)
        redriven += [(each.retried_from, each.name) for each in page.redriven_operations]
        skipped += page.skipped_count
        if not page.next_page_token:
            return redriven, skipped
        request.page_token = page.next_page_token


class Press:
    """Work that fails as long as there is no paper."""

    def __init__(self):
        self.has_paper = False
        self.log = []

    async def __call__(self, request, operation):
        for number in range(5):
            if number == 3 and not self.has_paper:
                raise outlast.OperationFailed(outlast.Code.UNAVAILABLE, "out of paper")
            await operation.step(f"{number}", self._print, number)
        return script_pb2.RunScriptResponse(text="printed")

    async def _print(self, number):
        self.log.append(number)


@pytest.fixture
def press(scripted):
    work = Press()
    work.service = scripted(work, retry=ONCE)
    return work


async def test_a_redriven_operation_goes_on_after_the_recorded_steps(serving, press):
    async with serving(press.service) as client:
        dead = await client.finished(parent="p/1")
        assert client.metadata(dead).dead_letter
        press.has_paper = True
        again = await redrive(client, dead.name)
        assert again.name.startswith("p/1/operations/")
        assert client.metadata(again).retried_from == dead.name
        done = await client.done(again)
        assert client.unpack(done.response).text == "printed"
        assert press.log == [0, 1, 2, 3, 4]
        assert await client.get(dead.name) == dead


async def test_a_redriven_operation_has_all_its_attempts_before_it(serving, scripted):
    retry = outlast.RetryPolicy(
        max_attempts=3,
        initial_backoff=timedelta(milliseconds=1),
        max_backoff=timedelta(milliseconds=1),
    )
    attempts = []

    async def work(_, operation):
        attempts.append((operation.name, operation.attempt, operation.max_attempts))
        raise outlast.OperationFailed(outlast.Code.UNAVAILABLE, "out of paper")

    async with serving(scripted(work, retry=retry)) as client:
        dead = await client.finished()
        again = await client.done(await redrive(client, dead.name))
        expected = [(each, n, 3) for each in (dead.name, again.name) for n in (1, 2, 3)]
        assert attempts == expected
        assert client.metadata(again).dead_letter


async def test_a_cancelled_operation_can_be_redriven(serving, scripted):
    go = asyncio.Event()

    async def work(*_):
        await go.wait()

    async with serving(scripted(work)) as client:
        started = await client.running(await client.run())
        await client.cancel(started.name)
        cancelled = await client.done(started)
        go.set()
        again = await client.done(await redrive(client, cancelled.name))
        assert again.HasField("response")
        assert not client.metadata(again).HasField("cancel_requested_time")


async def test_an_operation_that_failed_for_good_can_be_redriven(serving):
    async with serving() as client:
        failed = await client.finished({"fail": {"code": 9, "message": "told to"}})
        assert not client.metadata(failed).dead_letter
        again = await client.done(await redrive(client, failed.name))
        assert again.error.message == "told to"


async def test_what_runs_or_has_succeeded_is_not_redriven(serving):
    async with serving() as client:
        running = await client.running(await client.run(LONG))
        succeeded = await client.finished()
        for operation, state in ((running, "RUNNING"), (succeeded, "SUCCEEDED")):
            refusal = await client.refused(redrive(client, operation.name))
            assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
            assert refusal.info.reason == "OPERATION_NOT_REDRIVABLE"
            assert refusal.info.metadata["state"] == state
        assert len(await client.names()) == 2


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("operations/unknown", grpc.StatusCode.NOT_FOUND),
        ("", grpc.StatusCode.INVALID_ARGUMENT),
        ("p/1", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_a_redrive_of_what_is_not_there_is_refused(serving, name, code):
    async with serving() as client:
        assert (await client.refused(redrive(client, name))).code is code


async def test_redrives_at_the_same_time_give_the_same_operation(serving):
    async with serving(execute=False) as client:
        name = (await client.run()).name
        await client.cancel(name)
        redriven = await asyncio.gather(*(redrive(client, name) for _ in range(20)))
        assert len({each.name for each in redriven}) == 1
        assert len(await client.names()) == 2


async def test_a_redrive_is_no_answer_to_the_request_id_of_the_old_one(serving):
    request_id = "2b1c2ea4-6e4c-4b57-8ab1-0dbd4ac1a6a0"
    async with serving() as client:
        dead = await client.finished(JAMMED, request_id=request_id)
        again = await redrive(client, dead.name)
        assert (await client.run(JAMMED, request_id=request_id)).name == dead.name
        await client.delete(dead.name)
        other = await client.run(JAMMED, request_id=request_id)
        assert other.name not in {dead.name, again.name}


async def test_a_redrive_honours_the_exclusive_resource(serving):
    async with serving() as client:
        dead = await client.finished({"fail": {"code": 9, "message": "told to"}}, exclusive_key="k")
        holder = await client.run(LONG, exclusive_key="k")
        refusal = await client.refused(redrive(client, dead.name))
        assert refusal.code is grpc.StatusCode.ABORTED
        assert refusal.info.metadata["operation"] == holder.name
        assert await redrive_all(client, filter="state = FAILED") == ([], 1)


async def test_a_full_queue_refuses_a_redrive(serving):
    async with serving(execute=False, max_pending=2) as client:
        cancelled = [(await client.run()).name for _ in range(2)]
        for name in cancelled:
            await client.cancel(name)
        waiting = [(await client.run()).name for _ in range(2)]
        for call in (redrive(client, cancelled[0]), redrive_all(client, filter="done = true")):
            refusal = await client.refused(call)
            assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert refusal.info.reason == "QUEUE_FULL"
            assert refusal.detail(error_details_pb2.RetryInfo)
        await client.cancel(waiting[0])
        await redrive(client, cancelled[0])


async def test_a_queue_that_fills_up_says_where_to_go_on(serving):
    async with serving(execute=False, max_pending=3) as client:
        names = []
        for _ in range(5):
            names.append((await client.run()).name)
            await client.cancel(names[-1])
        request = admin_pb2.RedriveOperationsRequest(filter="state = CANCELLED")
        first = await client.admin.RedriveOperations(request, timeout=20)
        done = [each.retried_from for each in first.redriven_operations]
        assert done == names[:1:-1]
        for each in first.redriven_operations:
            await client.cancel(each.name)
        request.page_token = first.next_page_token
        rest = await client.admin.RedriveOperations(request, timeout=20)
        assert [each.retried_from for each in rest.redriven_operations] == names[1::-1]
        assert (rest.skipped_count, rest.next_page_token) == (0, "")


async def test_a_full_queue_of_its_method_refuses_a_redrive(serving, scripted):
    async with serving(scripted(max_pending=1), execute=False) as client:
        cancelled = (await client.run()).name
        await client.cancel(cancelled)
        waiting = (await client.run()).name
        for call in (redrive(client, cancelled), redrive_all(client, filter="done = true")):
            refusal = await client.refused(call)
            assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert refusal.info.reason == "QUEUE_FULL"
        await client.cancel(waiting)
        await redrive(client, cancelled)


async def test_a_method_that_has_its_fill_is_gone_on_with_after_the_others(serving, scripted):
    async with serving(scripted(max_pending=1), execute=False) as client:
        behind = (await client.erase()).name
        await client.cancel(behind)
        full = (await client.run()).name
        await client.cancel(full)
        waiting = (await client.run()).name
        request = admin_pb2.RedriveOperationsRequest(filter="state = CANCELLED")
        page = await client.admin.RedriveOperations(request, timeout=20)
        assert [each.retried_from for each in page.redriven_operations] == [behind]
        request.page_token = page.next_page_token
        refusal = await client.refused(client.admin.RedriveOperations(request, timeout=20))
        assert refusal.info.reason == "QUEUE_FULL"
        await client.cancel(waiting)
        page = await client.admin.RedriveOperations(request, timeout=20)
        assert [each.retried_from for each in page.redriven_operations] == [full]
        assert (page.skipped_count, page.next_page_token) == (1, "")


async def test_dead_letters_are_redriven_by_the_thousand_and_only_once(store, scripted, connected):
    has_paper = False

    async def work(*_):
        if not has_paper:
            raise outlast.OperationFailed(outlast.Code.UNAVAILABLE, "out of paper")

    config = outlast.ServerConfig(store=store, listen="127.0.0.1:0")
    service = scripted(work, retry=ONCE)
    async with (
        outlast.Server(services=[service], config=config) as server,
        connected(server.address, server) as client,
    ):
        started = await asyncio.gather(*(client.run(parent="p/1") for _ in range(1000)))
        other = await client.run(parent="p/2")
        dead = {(await client.done(each)).name for each in started}
        await client.done(other)
        has_paper = True
        redriven, skipped = await redrive_all(client, parent="p/1", page_size=300)
        assert skipped == 0
        assert len(redriven) == 1000
        assert {old for old, _ in redriven} == dead
        assert len({new for _, new in redriven}) == 1000
        again, skipped = await redrive_all(client, parent="p/1", page_size=1000)
        assert (again, skipped) == ([], 1000)
        for _, new in redriven:
            assert (await client.wait(new)).HasField("response")
        assert await redrive_all(client, parent="p/1") == ([], 1000)
        listed = await client.names("p/1", page_size=1000)
        assert len(listed) == 2000
        assert await client.names("p/2") == [other.name]


async def test_a_redrive_that_failed_again_is_redriven_in_its_turn(serving, scripted):
    async def work(*_):
        raise outlast.OperationFailed(outlast.Code.UNAVAILABLE, "out of paper")

    async with serving(scripted(work, retry=ONCE)) as client:
        first = await client.finished()
        ((old, second),), _ = await redrive_all(client)
        assert old == first.name
        await client.wait(second)
        ((old, third),), skipped = await redrive_all(client)
        assert (old, skipped) == (second, 1)
        assert client.metadata(await client.wait(third)).retried_from == second


async def test_a_bulk_redrive_finds_what_its_filter_says_of_what_did_not_succeed(serving):
    async with serving() as client:
        dead = await client.finished(JAMMED)
        failed = await client.finished({"fail": {"code": 9, "message": "told to"}})
        await client.finished()
        await client.running(await client.run(LONG))
        assert [old for old, _ in (await redrive_all(client))[0]] == [dead.name]
        found, skipped = await redrive_all(
            client, parent="operations", filter="create_time > 2020-01-01T00:00:00Z"
        )
        assert [old for old, _ in found] == [failed.name]
        assert skipped == 1


@pytest.mark.parametrize("fields", [{}, {"filter": "dead_letter = true AND error.code = 14"}])
async def test_dead_letters_of_every_parent_are_redriven(serving, fields):
    async with serving() as client:
        parents = ("", "p/1", "p/2/books/3")
        dead = [(await client.finished(JAMMED, parent=it)).name for it in parents]
        await client.finished({"fail": {"code": 9, "message": "told to"}}, parent="p/1")
        redriven, skipped = await redrive_all(client, parent="-", page_size=2, **fields)
        assert {old for old, _ in redriven} == set(dead)
        assert skipped == 0
        for old, new in redriven:
            assert new.rpartition("/")[0] == old.rpartition("/")[0]
        for _, new in redriven:
            await client.wait(new)
        again, skipped = await redrive_all(client, parent="-/operations", **fields)
        assert {old for old, _ in again} == {new for _, new in redriven}
        assert skipped == 3


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"parent": "-", "filter": "state = FAILED"}, "parent"),
        ({"parent": "p/-"}, "parent"),
        ({"filter": "nope = 1"}, "filter"),
        ({"page_size": -1}, "page_size"),
        ({"page_token": "nope"}, "page_token"),
    ],
    ids=str,
)
async def test_a_bulk_redrive_says_which_field_is_wrong(serving, fields, field):
    async with serving(execute=False) as client:
        assert (await client.refused(redrive_all(client, **fields))).field == field


async def test_the_token_of_a_list_is_none_of_a_redrive(serving):
    async with serving(execute=False) as client:
        for _ in range(2):
            await client.cancel((await client.run()).name)
        token = (await client.page(page_size=1, filter="done = true")).next_page_token
        call = redrive_all(client, filter="done = true", page_token=token)
        assert (await client.refused(call)).info.reason == "INVALID_PAGE_TOKEN"


async def test_a_redrive_of_a_method_that_is_gone_waits_for_a_server_that_knows_it(
    tmp_path: Path, serving, press
):
    store = str(tmp_path / "operations.db")
    async with serving(press.service, store=store) as client:
        dead = await client.finished()
    async with outlast.Operations.open(store, services=[]) as operations:
        again = await operations.engine.manager.redrive(dead.name)
        assert not again.done
    press.has_paper = True
    async with serving(press.service, store=store) as client:
        done = await client.wait(again.name)
        assert done.HasField("response")
    assert press.log == [0, 1, 2, 3, 4]
