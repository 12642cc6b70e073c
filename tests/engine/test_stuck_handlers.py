"""Handlers that never stop: what becomes of their slots, and who is told."""

import asyncio
import threading
from datetime import timedelta

import pytest

from outlast.domain.status import Payload
from outlast.engine.threads import MAX_THREADS
from outlast.testing.faults import AWAY

OTHER = "example.v1.Books/Bind"
LIMITS = {"cancel_limit": timedelta(seconds=60), "cancel_grace": timedelta(seconds=5)}


@pytest.fixture
def alarms(caplog):
    """Return what the log says that somebody should be woken for."""
    return lambda: [it.getMessage() for it in caplog.records if it.levelname == "CRITICAL"]


@pytest.fixture
def stubborn(handler):
    handler.stubborn = True
    return handler


class Blocking:
    """A handler that waits for threads, which end when they are let go and not before."""

    def __init__(self, threads=1):
        self.threads = threads
        self.let_go = threading.Event()
        self.began = asyncio.Semaphore(0)
        self._loop = asyncio.get_running_loop()

    async def __call__(self, _, context):
        await asyncio.gather(*(context.run_in_thread(self._block) for _ in range(self.threads)))
        return Payload("")

    async def begun(self, attempts=1):
        for _ in range(attempts * self.threads):
            await self.began.acquire()

    def _block(self):
        self._loop.call_soon_threadsafe(self.began.release)
        self.let_go.wait()


@pytest.fixture
async def blocking():
    handler = Blocking()
    yield handler
    handler.let_go.set()


async def test_slots_that_stubborn_handlers_hold_are_missing_and_come_back(
    world, stubborn, new_handler, alarms
):
    other = new_handler()
    methods = world.method(stubborn), world.method(other, name=OTHER)
    engine = await world.engine(*methods, concurrency=4, **LIMITS)
    for name in [await world.begin() for _ in range(3)]:
        await engine.manager.cancel(name)
        await world.clock.advance(60)
        assert await world.state(name) == "CANCELLED"

    names = [await world.begin(OTHER) for _ in range(3)]
    assert (other.active, engine.executor.running) == (1, 4)
    other.let_go.set()
    await world.clock.advance(1)
    assert [await world.state(name) for name in names] == ["SUCCEEDED"] * 3
    assert (other.peak, engine.executor.running) == (1, 3)
    assert alarms() == []

    stubborn.let_go.set()
    other.let_go.clear()
    await world.clock.advance(0)
    names = [await world.begin(OTHER) for _ in range(5)]
    assert (other.active, engine.executor.running) == (4, 4)


@pytest.mark.parametrize("reason", ["cancel", "deadline", "lease"])
async def test_that_every_slot_is_held_by_what_does_not_stop_is_told_once(
    world, stubborn, alarms, reason
):
    engine = await world.engine(world.method(stubborn), concurrency=2, **LIMITS)
    timeout = {"timeout": timedelta(seconds=10)} if reason == "deadline" else {}
    names = [await world.begin(max_attempts=1, **timeout) for _ in range(2)]
    if reason == "lease":
        world.store.inject(AWAY, "renew")
    for name in names if reason == "cancel" else []:
        await engine.manager.cancel(name)
    await world.clock.advance(70)

    assert [alarm.split(";")[0] for alarm in alarms()] == [
        "every slot is held by a handler that does not stop"
    ]
    world.store.heal()
    waiting = await world.begin()
    await world.clock.advance(10)
    assert await world.state(waiting) == "PENDING"
    assert len(alarms()) == 1

    stubborn.let_go.set()
    await world.clock.advance(10)
    assert await world.state(waiting) == "SUCCEEDED"


async def test_that_every_slot_of_a_method_is_held_is_told(world, stubborn, new_handler, alarms):
    other = new_handler()
    other.let_go.set()
    methods = world.method(stubborn, concurrency=1), world.method(other, name=OTHER)
    engine = await world.engine(*methods, concurrency=2, **LIMITS)
    await engine.manager.cancel(await world.begin())
    await world.clock.advance(60)

    (alarm,) = alarms()
    assert alarm.startswith("every slot of example.v1.Books/Print is held")
    assert await world.state(await world.begin()) == "PENDING"
    assert await world.state(await world.begin(OTHER)) == "SUCCEEDED"


async def test_a_handler_that_stops_in_time_after_losing_its_lease_is_not_abandoned(
    world, handler, caplog
):
    await world.engine(world.method(handler), **LIMITS)
    await world.begin()
    world.store.inject(AWAY, "renew")
    await world.clock.advance(70)
    assert handler.cancelled == 1
    assert "abandoned" not in caplog.text


@pytest.mark.parametrize("reason", ["cancel", "deadline", "lease"])
async def test_threads_that_go_on_keep_the_slot_of_their_attempt_and_this_is_told(
    world, blocking, alarms, caplog, reason
):
    engine = await world.engine(world.method(blocking), concurrency=2, **LIMITS)
    timeout = {"timeout": timedelta(seconds=10)} if reason == "deadline" else {}
    names = [await world.begin(max_attempts=1, **timeout) for _ in range(2)]
    await blocking.begun(2)
    if reason == "lease":
        world.store.inject(AWAY, "renew")
    for name in names if reason == "cancel" else []:
        await engine.manager.cancel(name)
    await world.clock.advance(30)
    world.store.heal()
    ended = {"cancel": "CANCELLED", "deadline": "FAILED", "lease": "RUNNING"}
    assert [await world.state(name) for name in names] == [ended[reason]] * 2
    assert engine.executor.running == 0

    waiting = await world.begin()
    await world.clock.advance(10)
    assert await world.state(waiting) == "PENDING"
    assert [alarm.split(";")[0] for alarm in alarms()] == [
        "every slot is held by a handler that does not stop"
    ]
    told = [it for it in caplog.messages if "they keep its slot" in it]
    assert sorted(told) == [
        f"threads of operation {name} do not stop; they keep its slot" for name in names
    ]

    blocking.let_go.set()
    await asyncio.wait_for(blocking.begun(), 20)


async def test_an_operation_ends_at_once_whatever_its_threads_do(world, blocking, alarms):
    engine = await world.engine(world.method(blocking), concurrency=1, **LIMITS)
    name = await world.begin()
    await blocking.begun()
    await engine.manager.cancel(name)
    await world.clock.advance(0)
    assert await world.state(name) == "CANCELLED"

    waiting = await world.begin()
    await world.clock.advance(4.9)
    assert await world.state(waiting) == "PENDING"
    blocking.let_go.set()
    await asyncio.wait_for(blocking.begun(), 20)
    await world.clock.advance(60)
    assert alarms() == []


async def test_threads_that_go_on_take_none_from_others(world, blocking):
    blocking.threads = 40
    blocking.began = asyncio.Semaphore(40 - MAX_THREADS)  # these never begin
    engine = await world.engine(
        world.method(blocking), world.method(in_a_thread, name=OTHER), concurrency=2, **LIMITS
    )
    name = await world.begin()
    await blocking.begun()
    await engine.manager.cancel(name)
    await world.clock.advance(60)
    other = await world.begin(OTHER)
    async with asyncio.timeout(20):
        while await world.state(other) != "SUCCEEDED":
            await world.clock.advance(0)


async def test_threads_that_go_on_keep_the_slot_of_their_method(world, blocking, alarms):
    methods = world.method(blocking, concurrency=1), world.method(in_a_thread, name=OTHER)
    engine = await world.engine(*methods, concurrency=2, **LIMITS)
    name = await world.begin()
    await blocking.begun()
    await engine.manager.cancel(name)
    await world.clock.advance(5)
    (alarm,) = alarms()
    assert alarm.startswith("every slot of example.v1.Books/Print is held")
    assert await world.state(await world.begin()) == "PENDING"


async def test_threads_that_go_on_hold_up_neither_a_drain_nor_a_stop(world, blocking):
    engine = await world.engine(world.method(blocking), **LIMITS)
    name = await world.begin()
    await blocking.begun()
    await engine.manager.cancel(name)
    await world.clock.advance(0)
    await world.in_time(engine.executor.drain())
    await world.in_time(engine.stop())


async def test_a_thread_that_is_busy_when_the_engine_stops_does_not_hold_it_up(world, blocking):
    engine = await world.engine(world.method(blocking), **LIMITS)
    name = await world.begin()
    await blocking.begun()
    await world.in_time(engine.stop())
    assert await world.state(name) == "PENDING"


async def in_a_thread(_, context):
    return await context.run_in_thread(Payload, "")
