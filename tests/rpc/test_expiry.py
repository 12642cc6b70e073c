"""How long operations are kept, and clocks that jump."""

import asyncio
from datetime import timedelta

import grpc
import pytest

from outlast.testing.clock import ManualClock

LONG = {"sleep": {"seconds": 60}}
HOUR = 3600
DAY = 24 * HOUR


async def check_gone(client, name):
    for call in (client.get, client.wait, client.cancel, client.delete):
        assert (await client.refused(call(name))).code is grpc.StatusCode.NOT_FOUND
    assert name not in await client.names()


@pytest.mark.assertion(112)
async def test_a_finished_operation_is_kept_until_it_expires(serving):
    clock = ManualClock()
    async with serving(clock=clock) as client:
        done = await client.finished()
        metadata = client.metadata(done)
        expire_time = metadata.expire_time.ToDatetime()
        assert expire_time - metadata.end_time.ToDatetime() == timedelta(days=30)
        clock.jump(30 * DAY - 1)
        assert await client.get(done.name) == done
        assert await client.names() == [done.name]
        clock.jump(1)
        await check_gone(client, done.name)
        await clock.advance(61)  # by now it is swept out
        await check_gone(client, done.name)


@pytest.mark.assertion(113)
async def test_what_is_not_done_never_expires(serving, scripted):
    go = asyncio.Event()

    async def work(*_):
        await go.wait()

    clock = ManualClock()
    options = {"retention": timedelta(hours=1)}
    async with serving(scripted(work, **options), clock=clock, concurrency=1) as client:
        running = await client.running(await client.run())
        queued = await client.run()
        clock.jump(300 * DAY)
        assert set(await client.names()) == {running.name, queued.name}
        go.set()
        for operation in (running, queued):
            done = await client.done(operation)
            metadata = client.metadata(done)
            kept = metadata.expire_time.ToDatetime() - metadata.end_time.ToDatetime()
            assert kept == timedelta(hours=1)
        clock.jump(HOUR - 1)
        assert len(await client.names()) == 2
        clock.jump(1)
        assert await client.names() == []


@pytest.mark.assertion(114)
async def test_a_token_outlives_the_operation_that_it_points_behind(serving, scripted):
    clock = ManualClock()
    async with serving(scripted(retention=timedelta(hours=1)), clock=clock) as client:
        stays = await client.run()
        await client.done(stays)
        names = [stays.name]
        for _ in range(5):
            clock.jump(HOUR / 10)
            names.append((await client.finished()).name)
        page = await client.page(page_size=2)
        assert [each.name for each in page.operations] == names[:3:-1]
        clock.jump(2 * HOUR)
        assert await client.names(page_token=page.next_page_token) == []
        await clock.advance(61)
        assert await client.names(page_token=page.next_page_token) == []


@pytest.mark.assertion(119)
async def test_a_clock_that_goes_back_brings_nothing_back(serving):
    clock = ManualClock()
    async with serving(clock=clock) as client:
        done = await client.finished()
        clock.jump(31 * DAY)
        await clock.advance(61)
        await check_gone(client, done.name)
        clock.jump(-31 * DAY)
        await check_gone(client, done.name)


@pytest.mark.assertion(119)
async def test_a_clock_that_goes_back_leaves_pages_and_times_in_order(serving):
    clock = ManualClock()
    async with serving(clock=clock) as client:
        first = await client.running(await client.run(LONG, parent="p/1"))
        clock.jump(-HOUR)
        await client.cancel(first.name)
        # The client checks that its times are in order.
        assert (await client.done(first)).done
        for _ in range(6):
            await client.finished(parent="p/1")
            clock.jump(-1)
        whole = await client.names("p/1")
        page = await client.page("p/1", page_size=3)
        clock.jump(-HOUR)
        rest = await client.names("p/1", page_token=page.next_page_token)
        assert [each.name for each in page.operations] + rest == whole
        assert len(whole) == 7


@pytest.mark.assertion(119)
@pytest.mark.parametrize("jump", [-DAY, DAY])
async def test_a_clock_that_jumps_does_not_move_a_wait(serving, jump):
    clock = ManualClock()
    async with serving(clock=clock) as client:
        started = await client.running(await client.run(LONG))
        wait = asyncio.ensure_future(client.wait(started.name, 10))
        await client.until(lambda: client.engine.waiting == 1)
        clock.jump(jump)
        await clock.advance(9.9)
        assert client.engine.waiting == 1
        await clock.advance(0.1)
        assert not (await wait).done
