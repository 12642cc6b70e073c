"""Handlers that do not stop when they are told to, and what is done beside them."""

import asyncio
import os
import threading
from datetime import timedelta

import pytest

import outlast

AT_ONCE = {
    "cancel_limit": timedelta(milliseconds=20),
    "cancel_grace": timedelta(milliseconds=20),
}


class Stubborn:
    """A handler that swallows every cancellation, for requests with a parent; others it counts."""

    def __init__(self):
        self.over = asyncio.Event()
        self.neighbours = self.peak = 0

    async def __call__(self, request, _):
        if not request.parent:
            await self._count()
        while request.parent and not self.over.is_set():
            try:
                await self.over.wait()
            except asyncio.CancelledError:
                continue

    async def _count(self):
        self.neighbours += 1
        self.peak = max(self.peak, self.neighbours)
        await asyncio.sleep(0.002)
        self.neighbours -= 1


@pytest.fixture
def stubborn():
    return Stubborn()


@pytest.mark.parametrize("told", ["by a caller", "by the deadline"])
async def test_neighbours_share_the_slots_that_are_left(serving, scripted, stubborn, told):
    options = {"timeout": timedelta(seconds=1)} if told == "by the deadline" else {}
    async with serving(scripted(stubborn, **options), concurrency=3, **AT_ONCE) as client:
        started = await client.run(parent="p/1")
        if told == "by a caller":
            await client.running(started)
            await client.cancel(started.name)
        done = await client.done(started)
        assert done.error.code in {outlast.Code.CANCELLED, outlast.Code.DEADLINE_EXCEEDED}

        for more in (0, 1):
            assert client.engine.executor.running == 1 + more
            stubborn.peak = 0
            names = [await client.run() for _ in range(8)]
            await asyncio.gather(*map(client.done, names))
            await client.until(lambda more=more: client.engine.executor.running == 1 + more)
            assert stubborn.peak <= 2 - more
            if not more:
                await client.cancel((await client.running(await client.run(parent="p/2"))).name)

        stubborn.over.set()
        await client.until(lambda: client.engine.executor.running == 0)
        assert await client.get(started.name) == done


async def test_a_server_whose_slots_are_all_lost_serves_and_says_so(
    serving, scripted, stubborn, caplog
):
    async with serving(scripted(stubborn), concurrency=1, **AT_ONCE) as client:
        started = await client.run(parent="p/1")
        await client.running(started)
        await client.cancel(started.name)
        await client.done(started)

        waiting = await client.run()
        assert not (await client.wait(waiting.name, 0.05)).done
        assert await client.names() == [waiting.name]
        assert [it.levelname for it in caplog.records if "every slot is held" in it.message] == [
            "CRITICAL"
        ]

        stubborn.over.set()
        assert (await client.done(waiting)).HasField("response")


@pytest.mark.parametrize("how", ["a plain step", "run_in_thread"])
async def test_a_thread_that_goes_on_keeps_the_slot_and_says_so(serving, scripted, caplog, how):
    began, over = threading.Event(), threading.Event()

    def block():
        began.set()
        over.wait()

    async def work(request, operation):
        function = block if request.parent else os.getpid
        if how == "run_in_thread":
            await operation.run_in_thread(function)
        else:
            await operation.step("call", function)

    async with serving(scripted(work), concurrency=2, **AT_ONCE) as client:
        try:
            for _ in range(2):
                assert (await client.finished()).HasField("response")
                began.clear()
                started = await client.run(parent="p/1")
                await client.until(began.is_set)
                await client.cancel(started.name)
                assert (await client.done(started)).error.code == outlast.Code.CANCELLED
            await client.until(lambda: "every slot is held" in caplog.text)
            waiting = await client.run()
            assert not (await client.wait(waiting.name, 0.05)).done
        finally:
            over.set()
        assert (await client.done(waiting)).HasField("response")
