"""What a client sees of the progress that a handler reports."""

import asyncio

import pytest

import outlast


@pytest.mark.parametrize("ending", ["SUCCEEDED", "FAILED", "CANCELLED"])
async def test_the_end_is_estimated_until_there_is_one(serving, scripted, ending):
    reported, go_on = asyncio.Event(), asyncio.Event()

    async def work(_, operation):
        await operation.progress(completed=1, total=4)
        reported.set()
        await go_on.wait()
        if ending == "FAILED":
            raise outlast.OperationFailed(outlast.Code.DATA_LOSS, "torn")

    async with serving(scripted(work)) as client:
        started = await client.run()
        await reported.wait()
        running = client.metadata(await client.get(started.name))
        assert running.progress.HasField("estimated_end_time")
        if ending == "CANCELLED":
            await client.cancel(started.name)
        else:
            go_on.set()
        done = client.metadata(await client.done(started))
        assert done.State.Name(done.state) == ending
        assert (done.progress.completed, done.progress.percent) == (1, 25)
        assert not done.progress.HasField("estimated_end_time")


@pytest.mark.parametrize(
    ("reported", "seen"),
    [
        ((5, 3), (5, 5, 100)),
        ((3, 3), (3, 3, 100)),
        ((2, 3), (2, 3, 66)),
        ((5, 0), (5, 0, 0)),
    ],
)
async def test_no_more_is_complete_than_there_is(serving, scripted, reported, seen):
    completed, total = reported

    async def work(_, operation):
        await operation.progress(completed=completed, total=total)

    async with serving(scripted(work)) as client:
        progress = client.metadata(await client.finished()).progress
        assert (progress.completed, progress.total, progress.percent) == seen
