"""The end of a worker: drain, and give back what is left."""

import asyncio
from datetime import timedelta

import pytest

from outlast.domain.status import Code, Status
from outlast.engine.outcome import AttemptFailedError
from outlast.testing.faults import AWAY, Fault

LEASE = timedelta(seconds=30)
GRACE = timedelta(seconds=10)
SILENT = Fault(delay_before=3600)


@pytest.fixture
async def engine(world, handler):
    return await world.engine(world.method(handler), lease=LEASE, cancel_grace=GRACE)


async def test_a_drain_waits_for_what_runs_and_claims_nothing_more(world, handler, engine):
    running = await world.begin()
    draining = asyncio.create_task(engine.executor.drain())
    waiting = await world.begin()
    await world.clock.advance(600)
    assert not draining.done()
    assert handler.cancelled == 0
    handler.let_go.set()
    await world.in_time(draining)
    assert await world.state(running) == "SUCCEEDED"
    assert await world.state(waiting) == "PENDING"


async def test_a_drain_keeps_leases_and_retries_are_left_to_others(world, handler, engine):
    name = await world.begin()
    draining = asyncio.create_task(engine.executor.drain())
    await world.clock.advance(600)
    handler.error = AttemptFailedError(Status(Code.UNAVAILABLE, "jammed"))
    handler.let_go.set()
    await world.in_time(draining)
    await world.clock.advance(600)
    operation = await world.get(name)
    assert (operation.state, operation.attempt) == ("PENDING", 1)


async def test_a_drain_runs_what_a_claim_under_way_brings(world, handler, engine):
    world.store.inject(Fault(delay_after=1), "claim", times=1)
    name = await world.begin()
    draining = asyncio.create_task(engine.executor.drain())
    handler.let_go.set()
    await world.in_time(draining, 1)
    assert await world.state(name) == "SUCCEEDED"


@pytest.mark.usefixtures("world")
async def test_a_drain_with_nothing_in_hand_is_over_at_once(world, engine):
    await world.in_time(engine.executor.drain())


async def test_a_stop_gives_back_what_runs_and_its_attempt_does_not_count(world, handler, engine):
    name = await world.begin()
    await world.in_time(engine.stop())
    assert handler.cancelled == 1
    assert not handler.contexts[0].cancel_requested
    operation = await world.get(name)
    assert (operation.state, operation.attempt) == ("PENDING", 0)
    assert operation.ready_time <= world.clock.now()
    assert await world.inner.attempts(name) == []


async def test_what_is_given_back_is_taken_by_another_worker_at_once(world, new_handler, engine):
    name = await world.begin()
    second = new_handler()
    other = await world.engine(
        world.method(second), store=world.client(), poll_interval=timedelta(days=1)
    )
    await world.in_time(engine.stop())
    assert second.names == [name]
    assert (await world.get(name)).worker == other.executor.worker
    assert (await world.get(name)).attempt == 1


async def test_a_result_during_the_stop_counts(world, handler, engine):
    handler.stubborn = True
    name = await world.begin()
    stopping = asyncio.create_task(engine.stop())
    await world.clock.advance(5)
    handler.let_go.set()
    await world.in_time(stopping)
    assert await world.state(name) == "SUCCEEDED"


async def test_a_handler_that_swallows_the_stop_is_abandoned_and_given_back(
    world, handler, engine, caplog
):
    handler.stubborn = True
    name = await world.begin()
    stopping = asyncio.create_task(engine.stop())
    await world.clock.advance(9.9)
    assert not stopping.done()
    await world.in_time(stopping, 0.1)
    assert f"{name} does not stop" in caplog.text
    operation = await world.get(name)
    assert (operation.state, operation.attempt) == ("PENDING", 0)
    handler.let_go.set()
    await world.clock.advance(0)
    assert await world.get(name) == operation


async def test_an_operation_that_was_cancelled_and_given_back_is_cancelled(world, handler, engine):
    handler.stubborn = True
    name = await world.begin()
    await engine.manager.cancel(name)
    await world.in_time(engine.stop(), 10)
    assert await world.state(name) == "CANCELLED"


async def test_a_stop_runs_nothing_of_what_a_claim_under_way_brings(world, handler, engine):
    world.store.inject(Fault(delay_after=1), "claim", times=1)
    name = await world.begin()
    stopping = asyncio.create_task(engine.stop())
    await world.in_time(stopping, 1)
    assert handler.active == 0
    operation = await world.get(name)
    assert (operation.state, operation.attempt) == ("PENDING", 0)


async def test_nothing_is_claimed_after_a_stop(world, handler, engine):
    await world.in_time(engine.stop())
    name = await world.begin()
    await world.clock.advance(600)
    assert handler.attempts == 0
    assert await world.state(name) == "PENDING"


async def test_a_stop_may_come_twice_and_at_the_same_time(world, handler, engine):
    handler.stubborn = True
    await world.begin()
    both = asyncio.gather(engine.executor.stop(), engine.executor.stop())
    await world.in_time(both, 10)
    await world.in_time(engine.executor.stop())
    await world.in_time(engine.stop())
    await world.in_time(engine.stop())


async def test_a_stop_may_come_during_a_drain(world, engine):
    await world.begin()
    draining = asyncio.create_task(engine.executor.drain())
    await world.clock.advance(1)
    await world.in_time(engine.executor.stop())
    assert draining.done()


async def test_a_stop_may_come_before_the_start(world, handler):
    engine = await world.engine(world.method(handler), start=False)
    await world.in_time(engine.executor.drain())
    await world.in_time(engine.stop())


async def test_a_stop_waits_a_moment_for_a_store_that_is_away(world, handler, engine):
    name = await world.begin()
    await world.clock.advance(5)
    world.store.inject(AWAY)
    handler.let_go.set()
    await world.clock.advance(1)
    stopping = asyncio.create_task(engine.stop())
    await world.clock.advance(11.5)
    assert not stopping.done()
    world.store.heal()
    await world.in_time(stopping, 1)
    assert await world.state(name) == "SUCCEEDED"


@pytest.mark.parametrize("fault", [AWAY, SILENT], ids=["away", "silent"])
@pytest.mark.parametrize("stubborn", [True, False])
async def test_a_stop_ends_although_the_store_does_not_answer(
    world, handler, engine, caplog, *, fault, stubborn
):
    handler.stubborn = stubborn
    name = await world.begin()
    world.store.inject(fault)
    await world.clock.advance(1)
    await world.in_time(engine.stop(), 13)
    assert f"{name} cannot be written; it is left to its lease" in caplog.text
    operation = await world.get(name)
    assert (operation.state, operation.lease_epoch) == ("RUNNING", 1)


@pytest.mark.parametrize("fault", [AWAY, SILENT], ids=["away", "silent"])
async def test_a_stop_ends_although_outcomes_alone_are_not_taken(world, handler, engine, fault):
    await world.begin()
    await world.begin()
    world.store.inject(fault, "finish")
    handler.let_go.set()
    await world.clock.advance(5)
    await world.in_time(engine.stop(), 13)


async def test_a_claim_that_brings_something_while_the_last_is_written_has_it_given_back(
    world, handler, engine
):
    world.store.inject(Fault(delay_after=11), "claim", times=1)
    name = await world.begin()
    await world.in_time(engine.stop(), 11)
    assert handler.attempts == 0
    operation = await world.get(name)
    assert (operation.state, operation.attempt) == ("PENDING", 0)


@pytest.mark.parametrize("fault", [AWAY, SILENT], ids=["away", "silent"])
@pytest.mark.parametrize("after", [0, 5, 11], ids=["before", "in the grace", "while it writes"])
async def test_a_hurried_stop_hardly_waits_for_a_store_that_does_not_answer(
    world, handler, engine, fault, after
):
    handler.stubborn = True
    await world.begin()
    world.store.inject(fault)
    await world.clock.advance(1)
    stopping = asyncio.create_task(engine.stop())
    await world.clock.advance(after)
    assert not stopping.done()
    engine.executor.hurry()
    await world.in_time(stopping, 0.5)
    handler.let_go.set()


async def test_no_task_is_left_after_a_stop(world, handler):
    before = asyncio.all_tasks()
    engine = await world.engine(world.method(handler))
    for _ in range(5):
        await world.begin(timeout=timedelta(seconds=60))
    waiting = asyncio.create_task(engine.manager.wait(handler.names[0], None))
    await world.clock.advance(1)
    await world.in_time(engine.stop())
    await world.in_time(waiting)
    assert asyncio.all_tasks() == before


async def test_released_work_is_taken_up_again_after_a_restart_on_disk(durable_world, new_handler):
    first, second = new_handler(), new_handler()
    second.let_go.set()
    engine = await durable_world.engine(durable_world.method(first), store=durable_world.client())
    name = await durable_world.insert()
    await first.began.wait()
    await engine.stop()
    released = await durable_world.get(name)
    assert (released.state, released.attempt) == ("PENDING", 0)
    again = await durable_world.engine(durable_world.method(second), store=durable_world.client())
    operation = await again.manager.wait(name, None)
    assert (operation.state, operation.attempt) == ("SUCCEEDED", 1)


@pytest.mark.parametrize("before", [True, False])
async def test_a_hurried_stop_waits_for_no_handler(world, handler, engine, before):
    handler.stubborn = True
    name = await world.begin()
    if before:
        engine.executor.hurry()
    stopping = asyncio.create_task(engine.stop())
    await world.clock.advance(0)
    engine.executor.hurry()
    await world.in_time(stopping)
    operation = await world.get(name)
    assert (operation.state, operation.attempt) == ("PENDING", 0)
    handler.let_go.set()
