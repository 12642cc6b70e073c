"""Handlers that leave tasks behind: these end with the attempt, and disturb nobody."""

import asyncio
import contextvars

import pytest

import outlast
from outlast.domain.errors import LeaseLostError


@pytest.fixture
def complaints(caplog):
    """Return what the log says of tasks that were left."""
    return lambda: [
        it.getMessage() for it in caplog.records if it.name == "outlast.engine.children"
    ]


async def wait_forever():
    await asyncio.Event().wait()


async def spin():
    while True:  # noqa: ASYNC110  # it waits for nothing
        await asyncio.sleep(0)


async def beget(left):
    left.append(asyncio.create_task(wait_forever()))
    await wait_forever()


@pytest.mark.parametrize(("work", "count"), [(wait_forever, 1), (spin, 10), (spin, 3000)])
async def test_tasks_that_are_left_are_cancelled_and_told_once(
    serving, scripted, complaints, work, count
):
    left = []

    async def leave(request, _):
        if request.parent:
            left.extend(asyncio.create_task(work()) for _ in range(count))
            await asyncio.sleep(0)

    async with serving(scripted(leave)) as client:
        done = await client.finished(parent="p/1")
        assert done.HasField("response")
        await asyncio.wait(left)
        assert all(task.cancelled() for task in left)
        (complaint,) = complaints()
        assert f"{done.name} left {count} tasks" in complaint
        assert work.__name__ in complaint
        assert (await client.finished()).HasField("response")
        assert len(complaints()) == 1


@pytest.mark.parametrize(
    "error", [None, RuntimeError(), outlast.OperationFailed(9, "no")], ids=repr
)
async def test_tasks_of_tasks_are_cancelled_however_the_attempt_ends(serving, scripted, error):
    left = []

    async def leave(*_):
        left.append(asyncio.create_task(beget(left)))
        await client.until(lambda: len(left) == 2)
        if error:
            raise error

    retry = outlast.RetryPolicy(max_attempts=1)
    async with serving(scripted(leave, retry=retry)) as client:
        await client.finished()
        await asyncio.wait(left)
        assert all(task.cancelled() for task in left)


async def test_what_one_failure_in_a_gathering_leaves_is_cancelled(serving, scripted):
    left = []

    async def fail():
        raise outlast.OperationFailed(outlast.Code.ABORTED, "one of them failed")

    async def leave(*_):
        left.append(asyncio.create_task(wait_forever()))
        await asyncio.gather(left[0], fail())

    async with serving(scripted(leave)) as client:
        done = await client.finished()
        assert done.error.message == "one of them failed"
        await asyncio.wait(left)


async def test_a_cancelled_operation_leaves_no_tasks(serving, scripted):
    left = []

    async def leave(*_):
        left.append(asyncio.create_task(wait_forever()))
        await asyncio.wait(left)  # which does not cancel what it waits for

    async with serving(scripted(leave)) as client:
        started = await client.run()
        await client.until(lambda: left)
        await client.cancel(started.name)
        assert (await client.done(started)).error.code == outlast.Code.CANCELLED
        await asyncio.wait(left)


async def test_what_a_handler_has_cancelled_or_awaited_is_nobodys_business(
    serving, scripted, complaints
):
    async def tidy(*_):
        cancelled = asyncio.create_task(wait_forever())
        await asyncio.create_task(asyncio.sleep(0))
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
        cancelled.cancel()

    async with serving(scripted(tidy)) as client:
        await client.finished()
        assert complaints() == []


async def test_a_task_with_a_context_of_its_own_goes_on(serving, scripted, complaints):
    over = asyncio.Event()
    shared = []

    async def share(*_):
        shared.append(asyncio.create_task(over.wait(), context=contextvars.Context()))

    async with serving(scripted(share)) as client:
        await client.finished()
        await client.check_alive()
        over.set()
        assert await shared[0]
        assert complaints() == []


async def test_what_a_task_that_does_not_stop_writes_is_refused(serving, scripted):
    left = []

    async def stay(operation):
        try:
            await wait_forever()
        except asyncio.CancelledError:
            await operation.progress(completed=1, message="late")

    async def leave(_, operation):
        left.append(asyncio.create_task(stay(operation)))
        await asyncio.sleep(0)

    async with serving(scripted(leave)) as client:
        done = await client.finished()
        with pytest.raises(LeaseLostError):
            await left[0]
        assert await client.get(done.name) == done


async def test_tasks_are_made_by_what_made_them_before(serving, scripted):
    made, left = [], []

    def factory(loop, coroutine, **options):
        made.append(asyncio.Task(coroutine, loop=loop, **options))
        return made[-1]

    async def leave(*_):
        left.append(asyncio.create_task(wait_forever()))

    asyncio.get_running_loop().set_task_factory(factory)
    async with serving(scripted(leave)) as client:
        await client.finished()
        await asyncio.wait(left)
        async with serving() as other:
            await other.finished()
    assert left[0] in made
    assert len(set(made)) == len(made)
