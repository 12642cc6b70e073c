"""How many operations of a method run on all workers together."""

import asyncio
from datetime import timedelta

import pytest

from outlast.domain.errors import ConfigurationError
from outlast.domain.operation import Operation
from outlast.domain.status import Code, Payload, Status
from outlast.domain.transitions import Retry, Succeeded
from outlast.ports import Claims
from outlast.stores.memory import MemoryStore
from outlast.testing.faults import Fault, Hints

SLOW_POLL = timedelta(days=1)
"""With it nothing is found but by hints."""
LEASE = timedelta(seconds=30)
METHOD = "example.v1.Books/Print"
OTHER = "example.v1.Books/Bind"
DONE = Payload("example.v1.Book")
FAILED = Status(Code.UNAVAILABLE, "the press is jammed")


@pytest.fixture
def worker(world):
    """Open a worker of its own on the operations of the world."""

    async def worker(*methods, **settings):
        settings = {"poll_interval": SLOW_POLL, "lease": LEASE} | settings
        return await world.engine(*methods, store=world.client(), **settings)

    return worker


async def test_no_more_run_on_all_workers_than_may_and_all_are_done(world, worker, handler):
    """Handlers of both workers are counted together: it is one that they share."""
    for _ in range(2):
        await worker(world.method(handler, max_running=3))
    names = [await world.begin() for _ in range(10)]
    assert handler.active == 3
    handler.let_go.set()
    await world.clock.advance(0)
    assert handler.peak == 3
    assert sorted(handler.names) == names


async def test_a_place_that_one_worker_leaves_is_taken_by_another_at_once(
    world, worker, new_handler
):
    first, second = new_handler(), new_handler()
    engine = await worker(world.method(first, max_running=1))
    await world.begin()
    draining = asyncio.create_task(engine.executor.drain())
    await worker(world.method(second, max_running=1))
    waiting = await world.begin()
    assert second.names == []
    first.let_go.set()
    await world.clock.advance(0)
    assert second.names == [waiting]
    await draining


@pytest.mark.parametrize("outcome", [Succeeded(DONE), Retry(FAILED, timedelta(hours=1))])
@pytest.mark.parametrize("hints", [Hints.PASSED, Hints.BARE, Hints.VAGUE])
async def test_a_place_that_becomes_free_while_a_claim_is_under_way_is_not_missed(
    world, handler, hints, outcome
):
    await world.insert()
    rival = await world.take()
    waiting = await world.insert()
    world.store.changes.hints = hints
    world.store.inject(Fault(delay_after=1), "claim")
    await world.engine(world.method(handler, max_running=1), poll_interval=SLOW_POLL)
    await world.inner.finish(rival.lease, outcome)
    await world.clock.advance(3)
    assert handler.names == [waiting]


async def test_what_is_inserted_while_a_claim_finds_a_free_place_is_not_missed(world, handler):
    await world.insert()
    rival = await world.take()
    await world.engine(world.method(handler, max_running=1), poll_interval=SLOW_POLL)
    world.store.inject(Fault(delay_after=1), "claim")
    await world.inner.finish(rival.lease, Succeeded(DONE))
    await world.clock.advance(0)
    waiting = await world.begin()
    await world.clock.advance(3)
    assert handler.names == [waiting]


async def test_a_place_that_a_retry_or_a_release_leaves_is_taken(world, worker, handler):
    await world.insert()
    rival = await world.take()
    await worker(world.method(handler, max_running=1))
    waiting = await world.begin()
    assert handler.names == []
    await world.inner.finish(rival.lease, Retry(FAILED, timedelta(hours=1)))
    await world.clock.advance(0)
    assert handler.names == [waiting]


async def test_a_place_of_which_no_hint_tells_is_found_by_the_poll(world, handler):
    await world.insert()
    rival = await world.take()
    world.store.changes.hints = Hints.LOST
    await world.engine(world.method(handler, max_running=1), poll_interval=timedelta(seconds=5))
    await world.insert()
    await world.clock.advance(5)
    await world.inner.finish(rival.lease, Retry(FAILED, timedelta(hours=1)))
    assert handler.names == []
    await world.clock.advance(5)
    assert handler.attempts == 1


async def test_what_is_held_back_holds_up_no_other_method(world, worker, new_handler):
    few, many = new_handler(), new_handler()
    await worker(world.method(few, max_running=1), world.method(many, OTHER))
    for _ in range(50):
        await world.insert()
    await world.begin()
    names = [await world.begin(OTHER) for _ in range(5)]
    assert few.active == 1
    assert many.names == names


async def test_what_is_held_back_has_nobody_ask_for_it(world, handler):
    await world.engine(world.method(handler, max_running=1), poll_interval=SLOW_POLL)
    await world.begin()
    await world.begin()
    asked = world.store.calls["claim"]
    for _ in range(20):
        waiting = await world.begin()
    await world.inner.request_cancel(waiting)
    await world.clock.advance(5)
    assert world.store.calls["claim"] == asked
    assert handler.active == 1


async def test_what_was_held_back_by_a_worker_that_died_goes_on_after_its_lease(
    world, worker, handler
):
    lost = await world.insert()
    await world.take(lease=LEASE)
    await worker(world.method(handler, max_running=1))
    waiting = await world.begin()
    await world.clock.advance(29.9)
    assert handler.names == []
    await world.clock.advance(0.1)
    assert handler.names == [lost]
    handler.let_go.set()
    await world.clock.advance(0)
    assert handler.names == [lost, waiting]


async def test_a_handler_that_was_given_up_leaves_its_place_but_not_its_slot(
    world, worker, handler
):
    handler.stubborn = True
    await worker(world.method(handler, max_running=1), concurrency=1)
    stuck = await world.begin(timeout=timedelta(seconds=60))
    waiting = await world.begin()
    await world.clock.advance(200)
    assert handler.names == [stuck]
    await worker(world.method(handler, max_running=1))
    assert handler.names == [stuck, waiting]


class Contended(MemoryStore):
    """A store of which another worker's claims keep this one's operations."""

    def __init__(self, clock) -> None:
        super().__init__(clock)
        self.clock = clock
        self.asked: list[float] = []
        self.in_the_way = True

    async def claim(self, *call, **options) -> Claims:
        self.asked.append(self.clock.monotonic())
        if self.in_the_way:
            return Claims([], None, contended=frozenset({METHOD}))
        return await super().claim(*call, **options)


async def test_a_claim_that_another_one_is_in_the_way_of_is_made_again_soon_and_ever_less_often(
    world, handler
):
    store = Contended(world.clock)
    await world.engine(
        world.method(handler, max_running=1), store=store, poll_interval=timedelta(seconds=60)
    )
    await world.clock.advance(0.006)
    assert len(store.asked) > 1
    await world.clock.advance(10)
    assert 40 <= len(store.asked) <= 100
    store.in_the_way = False
    now = world.clock.now()
    operation = Operation(
        name="operations/one",
        parent="",
        method=METHOD,
        create_time=now,
        update_time=now,
        ready_time=now,
        max_attempts=1,
    )
    await store.insert(operation, Payload("example.v1.Request"))
    await world.clock.advance(0)
    assert handler.names == ["operations/one"]


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, 2**31])
def test_a_limit_is_a_number_of_operations(world, handler, limit):
    with pytest.raises(ConfigurationError, match=r"Books/Print: max_running must be"):
        world.method(handler, max_running=limit)
