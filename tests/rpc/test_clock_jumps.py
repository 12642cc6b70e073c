"""Servers whose time of day jumps an hour ahead or back, as it does when somebody sets it."""

import asyncio
from datetime import timedelta

import grpc
import pytest

import outlast
from outlast.testing.clock import ManualClock

HOUR = 3600


class Work:
    """A handler that works until it is let go, and counts what befalls it."""

    def __init__(self):
        self.begun = self.stopped = self.ended = 0
        self.go = asyncio.Event()

    async def __call__(self, *_):
        self.begun += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        self.ended += 1


@pytest.mark.parametrize("jump", [-HOUR, HOUR])
@pytest.mark.parametrize("attempts", [1, 3])
async def test_what_runs_when_the_clock_jumps_runs_on_and_ends_once(
    serving, scripted, jump, attempts
):
    work, clock = Work(), ManualClock()
    service = scripted(work, retry=outlast.RetryPolicy(max_attempts=attempts))
    async with serving(service, clock=clock) as client:
        started = await client.run()
        await client.until(lambda: work.begun == 1)
        clock.jump(jump)
        for _ in range(3):  # whoever claims these would be given what seems lost
            await client.done(await client.erase())
        work.go.set()
        done = await client.done(started)
        assert done.HasField("response")
        assert client.metadata(done).attempt == 1
        assert (work.begun, work.stopped, work.ended) == (1, 0, 1)


async def test_what_waits_when_the_clock_goes_back_does_not_wait_for_the_old_time(
    serving, scripted
):
    work, clock = Work(), ManualClock()
    async with serving(scripted(work), clock=clock, concurrency=1) as client:
        first = await client.run()
        await clock.advance(1)
        second = await client.run()
        await client.until(lambda: work.begun == 1)
        clock.jump(-HOUR)
        await clock.advance(1)
        third = await client.run()
        work.go.set()
        for started in (first, second, third):
            assert (await client.done(started)).HasField("response")
        assert work.ended == 3
        assert await client.names() == [third.name, second.name, first.name]


async def test_a_retry_is_not_put_off_by_the_hour_that_the_clock_goes_back(serving, scripted):
    tries, clock = [], ManualClock()

    async def fail_once(*_):
        tries.append(clock.monotonic())
        if len(tries) == 1:
            raise outlast.OperationFailed(
                grpc.StatusCode.UNAVAILABLE, "again", retry_delay=timedelta(seconds=60)
            )

    async with serving(scripted(fail_once), clock=clock) as client:
        started = await client.run()
        waiting = False
        while not waiting:
            metadata = client.metadata(await client.get(started.name))
            waiting = metadata.HasField("next_attempt_time")
        clock.jump(-HOUR)
        while len(tries) == 1:
            await clock.advance(0.5)
            await client.get(started.name)
        assert 60 <= tries[1] - tries[0] < HOUR / 6
        assert (await client.done(started)).HasField("response")


@pytest.mark.parametrize("jump", [-HOUR, HOUR])
async def test_a_time_limit_lasts_as_long_as_it_says_though_the_clock_jumps(
    serving, scripted, jump
):
    work, clock = Work(), ManualClock()
    service = scripted(work, timeout=timedelta(seconds=20))
    async with serving(service, clock=clock) as client:
        started = await client.run()
        await client.until(lambda: work.begun == 1)
        clock.jump(jump)
        await clock.advance(19)
        assert work.stopped == 0
        await clock.advance(1)
        assert client.reason(await client.done(started)) == "OPERATION_TIMED_OUT"
        assert (work.begun, work.stopped) == (1, 1)


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_a_server_that_starts_after_the_clock_went_back_goes_on_where_the_last_one_was(
    serving,
):
    clock = ManualClock()
    async with serving(clock=clock, execute=False) as client:
        waiting = await client.run()
    clock.jump(-HOUR)
    async with serving(clock=clock) as client:
        await clock.advance(2)
        assert (await client.done(waiting)).HasField("response")
        assert await client.names() == [waiting.name]
