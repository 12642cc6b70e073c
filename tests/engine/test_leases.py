"""Leases: kept while the work goes on, and nothing is written without one."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from outlast.domain.errors import LeaseLostError
from outlast.domain.status import Payload
from outlast.domain.transitions import Succeeded
from outlast.engine.retry import RetryPolicy
from outlast.testing.faults import AWAY, Fault, Hints

LEASE = timedelta(seconds=30)
OTHER_METHOD = "example.v1.Books/Bind"
RIVAL_RESPONSE = Payload("example.v1.Book", b"of the rival")


async def lose(world, name):
    """Let another worker take an operation over, as if this one had been frozen."""
    world.store.inject(Fault(delay_before=3600), "renew")
    lease_end = (await world.get(name)).ready_time
    world.clock._elapsed += lease_end - world.clock.now()
    claim = await world.take()
    assert claim.operation.name == name
    world.store.heal()
    return claim


@pytest.fixture
async def engine(world, handler):
    return await world.engine(world.method(handler), lease=LEASE)


@pytest.mark.usefixtures("engine")
async def test_a_lease_is_kept_as_long_as_the_work_goes_on(world, handler):
    name = await world.begin()
    await world.clock.advance(600)
    handler.let_go.set()
    await world.clock.advance(0)
    operation = await world.get(name)
    assert (operation.state, operation.attempt) == ("SUCCEEDED", 1)


@pytest.mark.usefixtures("engine")
async def test_one_call_renews_all_leases_three_times_a_lease(world):
    for _ in range(20):
        await world.begin()
    await world.clock.advance(300)
    assert world.store.calls["renew"] in {29, 30, 31}


@pytest.mark.usefixtures("engine")
async def test_an_idle_worker_renews_nothing(world):
    await world.clock.advance(300)
    assert world.store.calls["renew"] == 0


async def test_the_writes_of_a_worker_that_was_replaced_are_refused_and_counted(
    world, handler, engine
):
    name = await world.begin()
    rival = await lose(world, name)
    with pytest.raises(LeaseLostError):
        await handler.contexts[0].report(None, Payload("m", b"late"))
    with pytest.raises(LeaseLostError):
        await handler.contexts[0].record_step("late", Payload("s"))
    handler.let_go.set()
    await world.clock.advance(0)
    assert engine.executor.refused_writes == 2
    assert handler.cancelled == 1
    assert await world.state(name) == "RUNNING"
    await world.inner.finish(rival.lease, Succeeded(RIVAL_RESPONSE))
    operation = await world.get(name)
    assert operation.response == RIVAL_RESPONSE
    assert operation.metadata == Payload("")
    assert await world.inner.steps(name) == {}


@pytest.mark.usefixtures("engine")
async def test_a_worker_that_was_frozen_past_its_lease_begins_no_step(world, handler):
    name = await world.begin()
    context = handler.contexts[0]
    assert await context.recorded_step("in time") is None
    await lose(world, name)
    with pytest.raises(LeaseLostError):
        await context.recorded_step("late")
    with pytest.raises(LeaseLostError):
        await world.in_time(context.try_step_again("in time", RetryPolicy(), 1, OSError()), 60)


async def test_a_handler_that_was_replaced_is_stopped_by_the_next_renewal(world, handler, engine):
    name = await world.begin()
    rival = await lose(world, name)
    await world.clock.advance(10)
    assert handler.cancelled == 1
    assert not handler.contexts[0].cancel_requested
    assert engine.executor.running == 0
    assert (await world.get(name)).lease_epoch == rival.lease.epoch


@pytest.mark.usefixtures("engine")
async def test_a_handler_that_was_replaced_writes_nothing_whatever_it_returns(world, handler):
    handler.stubborn = True
    name = await world.begin()
    await lose(world, name)
    await world.clock.advance(10)
    assert handler.cancelled == 1
    written = world.store.calls["finish"]
    handler.let_go.set()
    await world.clock.advance(0)
    assert world.store.calls["finish"] == written
    assert await world.state(name) == "RUNNING"


async def test_a_refused_report_ends_the_attempt_here(world, handler):
    async def run(_request, context):
        await handler(_request, context)
        await context.report(None, Payload("m", b"late"))
        return Payload("")

    engine = await world.engine(world.method(run), lease=LEASE)
    name = await world.begin()
    await lose(world, name)
    handler.let_go.set()
    await world.clock.advance(0)
    assert engine.executor.refused_writes == 1
    assert world.store.calls["finish"] == 0


async def test_a_worker_that_cannot_renew_stops_before_its_lease_ends(world, handler, engine):
    name = await world.begin()
    world.store.inject(AWAY)
    await world.clock.advance(29)
    assert handler.cancelled == 1
    assert engine.executor.running == 0
    assert world.store.calls["finish"] == 0
    assert (await world.get(name)).lease_epoch == 1


@pytest.mark.usefixtures("engine")
async def test_a_worker_whose_renewal_hangs_stops_before_its_lease_ends(world, handler):
    await world.begin()
    world.store.inject(Fault(delay_before=3600), "renew")
    await world.clock.advance(29)
    assert handler.cancelled == 1
    assert world.store.calls["finish"] == 0


async def test_what_was_given_too_late_to_be_kept_is_not_begun(world, handler, engine):
    world.store.inject(Fault(delay_after=26), "claim", times=1)
    name = await world.begin()
    await world.clock.advance(27)
    assert await world.state(name) == "RUNNING"
    assert handler.attempts == 0
    assert engine.executor.running == 0
    await world.clock.advance(4)
    assert handler.attempts == 1
    assert (await world.get(name)).lease_epoch == 2


@pytest.mark.usefixtures("engine")
async def test_a_renewal_that_was_answered_late_counts_from_when_it_was_asked(world, handler):
    await world.begin()
    await world.clock.advance(9)
    world.store.inject(Fault(delay_after=14), "renew", times=1)
    world.store.inject(AWAY, "renew")
    await world.clock.advance(15)
    assert handler.cancelled == 0
    await world.clock.advance(15)
    assert handler.cancelled == 1


@pytest.mark.usefixtures("engine")
async def test_an_outage_that_ends_in_time_keeps_the_work(world, handler):
    name = await world.begin()
    world.store.inject(AWAY)
    await world.clock.advance(23)
    assert handler.cancelled == 0
    world.store.heal()
    await world.clock.advance(600)
    assert handler.cancelled == 0
    assert (await world.get(name)).attempt == 1


async def test_a_bug_of_the_store_in_renewing_is_an_outage(world, handler, engine):
    bug = Fault(fails=AWAY.fails, error=lambda: ValueError("a bug"))
    await world.begin()
    world.store.inject(bug, "renew", times=3)
    await world.clock.advance(600)
    assert handler.cancelled == 0
    assert not engine.died.done()


@pytest.mark.usefixtures("engine")
async def test_a_worker_that_cannot_renew_claims_nothing_more(world):
    await world.begin()
    world.store.inject(AWAY, "renew")
    await world.clock.advance(10)
    waiting = await world.begin()
    await world.clock.advance(10)
    assert await world.state(waiting) == "PENDING"
    world.store.heal()
    await world.clock.advance(4)
    assert await world.state(waiting) == "RUNNING"


@pytest.mark.usefixtures("engine")
async def test_a_worker_that_lost_everything_to_an_outage_claims_again(world, handler):
    name = await world.begin()
    world.store.inject(AWAY)
    await world.clock.advance(120)
    world.store.heal()
    handler.let_go.set()
    await world.clock.advance(4)
    operation = await world.get(name)
    assert (operation.state, operation.lease_epoch) == ("SUCCEEDED", 2)


@pytest.mark.usefixtures("engine")
async def test_a_lease_that_was_given_up_is_not_renewed_any_more(world, handler):
    """Otherwise a handler that does not stop would keep the operation from everybody."""
    handler.stubborn = True
    name = await world.begin()
    world.store.inject(AWAY, "renew")
    await world.clock.advance(28)
    assert handler.cancelled == 1
    world.store.heal()
    await world.clock.advance(60)
    assert (await world.get(name)).lease_epoch == 2


async def test_a_handler_that_lives_on_beside_its_successor_still_takes_a_slot(world, new_handler):
    handler = new_handler()
    handler.stubborn = True
    engine = await world.engine(world.method(handler), lease=LEASE, concurrency=2)
    name = await world.begin()
    world.store.inject(AWAY, "renew")
    await world.clock.advance(28)
    world.store.heal()
    await world.clock.advance(10)
    assert handler.names == [name, name]
    await world.begin()
    await world.clock.advance(60)
    assert handler.peak == 2
    assert engine.executor.running == 2
    handler.let_go.set()
    await world.clock.advance(0)
    assert engine.executor.running == 0
    assert handler.attempts == 3


async def test_both_handlers_of_an_operation_are_stopped_at_the_end(world, handler, engine):
    handler.stubborn = True
    await world.begin()
    world.store.inject(AWAY, "renew")
    await world.clock.advance(28)
    world.store.heal()
    await world.clock.advance(10)
    assert handler.active == 2
    handler.stubborn = False
    await world.in_time(engine.executor.stop(), 60)
    assert handler.cancelled == 2


@pytest.mark.usefixtures("engine")
async def test_the_clock_of_the_machine_may_jump(world, handler):
    name = await world.begin()
    world.store.changes.hints = Hints.LOST
    world.clock.jump(-7200)
    await world.clock.advance(100)
    assert handler.cancelled == 0
    assert (await world.get(name)).attempt == 1


@pytest.mark.usefixtures("engine")
async def test_workers_let_each_other_be_when_the_time_of_day_jumps_ahead(world, handler):
    names = [await world.begin()]
    await world.engine(
        world.method(handler), world.method(handler, name=OTHER_METHOD), store=world.client()
    )
    names.append(await world.begin(OTHER_METHOD))
    world.clock.jump(3600)
    await world.clock.advance(60)
    assert handler.names == names
    assert [(await world.get(name)).lease_epoch for name in names] == [1, 1]


@pytest.mark.usefixtures("engine")
async def test_after_a_jump_ahead_new_work_begins_and_lost_work_when_its_lease_would_have_ended(
    world, handler
):
    lost = await world.insert()
    await world.take()
    world.clock.jump(3600)
    await world.begin()
    await world.clock.advance(29)
    assert handler.attempts == 1
    await world.clock.advance(3)
    assert handler.names[1:] == [lost]


async def test_nothing_is_lost_by_a_jump_ahead_while_a_claim_is_under_way(world, handler):
    await world.engine(world.method(handler), concurrency=2)
    name = await world.begin(max_attempts=1)
    world.store.inject(Fault(delay_before=1.5), "claim", times=1)
    await world.clock.advance(1)
    world.clock.jump(3600)
    await world.clock.advance(60)
    assert handler.attempts == 1
    assert (await world.get(name)).lease_epoch == 1


async def test_a_drained_worker_keeps_its_leases_when_the_time_of_day_jumps_ahead(world, handler):
    handler.stubborn = True
    first = await world.engine(world.method(handler), cancel_grace=timedelta(seconds=120))
    name = await world.begin(max_attempts=1)
    rival = await world.engine(
        world.method(handler), store=world.client(), lease=timedelta(seconds=2)
    )
    stopping = asyncio.create_task(first.stop())
    await world.clock.advance(1)
    world.clock.jump(3600)
    await world.clock.advance(60)
    assert await world.state(name) == "RUNNING"
    assert rival.executor.running == 0
    handler.let_go.set()
    await world.clock.advance(0)
    await stopping
    assert await world.state(name) == "SUCCEEDED"


@pytest.fixture
def locked(world, monkeypatch):
    """Return a set of the names whose leases the store cannot renew, nor say that they are lost."""
    names = set()
    renew = world.inner.renew

    async def renew_others(leases, duration):
        kept = [lease for lease in leases if lease.name not in names]
        renewal = await renew(kept, duration)
        return replace(renewal, locked=frozenset(leases) - frozenset(kept))

    monkeypatch.setattr(world.inner, "renew", renew_others)
    return names


@pytest.mark.usefixtures("engine")
async def test_what_is_locked_for_a_while_is_renewed_in_time_when_it_no_longer_is(
    world, handler, locked
):
    name = await world.begin()
    locked.add(name)
    await world.clock.advance(LEASE.total_seconds() * 0.7)
    locked.clear()
    await world.clock.advance(LEASE.total_seconds() * 2)
    assert handler.cancelled == 0
    assert await world.state(name) == "RUNNING"


@pytest.mark.usefixtures("engine")
async def test_what_stays_locked_is_stopped_before_its_lease_ends_and_nothing_else_is(
    world, handler, locked
):
    name = await world.begin()
    other = await world.begin()
    locked.add(name)
    await world.clock.advance(LEASE.total_seconds() - 1)
    assert handler.cancelled == 1
    await world.clock.advance(LEASE.total_seconds())
    operation = await world.get(other)
    assert (operation.state, operation.attempt) == ("RUNNING", 1)


@pytest.mark.usefixtures("engine")
async def test_nothing_is_written_after_an_attempt_while_its_outcome_is_on_its_way(world, handler):
    name = await world.begin()
    world.store.inject(Fault(delay_before=3600), "finish")
    handler.let_go.set()
    await world.clock.advance(0)
    writes = world.store.calls["record_progress"]
    with pytest.raises(LeaseLostError):
        await handler.contexts[0].report(None, Payload("m", b"late"))
    with pytest.raises(LeaseLostError):
        await handler.contexts[0].record_step("late", Payload("s"))
    with pytest.raises(LeaseLostError):
        await handler.contexts[0].recorded_step("late")
    assert world.store.calls["record_progress"] == writes
    assert await world.state(name) == "RUNNING"
