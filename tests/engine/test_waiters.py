"""Waiting: no completion is missed, and the cost is per change and not per waiter."""

import asyncio
import gc
import logging
import sqlite3
from contextlib import closing
from datetime import timedelta

import pytest

from outlast.domain.errors import (
    OperationNotFoundError,
    StoreUnavailableError,
    TooManyWaitersError,
)
from outlast.domain.status import Payload
from outlast.domain.transitions import Retry, Succeeded
from outlast.engine.outcome import UNEXPECTED
from outlast.testing.faults import ANSWER_LOST, AWAY, Fault, Hints

POLL = timedelta(seconds=10)
RESPONSE = Payload("example.v1.Book", b"response")


class Waiting:
    """An operation that runs elsewhere, and an engine at which calls wait for it."""

    def __init__(self, world, engine, claim):
        self.world = world
        self.store = world.store
        self.engine = engine
        self.claim = claim
        self.name = claim.operation.name

    def wait(self, seconds=None, patience=None):
        return asyncio.create_task(self.engine.manager.wait(self.name, seconds, patience))

    async def park(self, count=1, seconds=None, patience=None):
        waits = [self.wait(seconds, patience) for _ in range(count)]
        await self.world.clock.advance(0)
        assert self.engine.waiting == count
        return waits

    async def finish(self):
        return await self.world.inner.finish(self.claim.lease, Succeeded(RESPONSE))

    def reads(self):
        return self.store.calls["get"] + self.store.calls["get_many"]


async def waiting_in(world, **settings):
    engine = await world.engine(
        execute=False, waiter_poll_interval=POLL, max_wait=timedelta(seconds=60), **settings
    )
    await world.insert()
    return Waiting(world, engine, await world.take(lease=timedelta(days=1)))


@pytest.fixture
async def waiting(world):
    return await waiting_in(world)


@pytest.mark.parametrize("hints", [Hints.PASSED, Hints.BARE, Hints.VAGUE])
async def test_a_hint_wakes_a_waiter_without_any_time_passing(world, waiting, hints):
    world.store.changes.hints = hints
    (wait,) = await waiting.park()
    done = await waiting.finish()
    assert await world.in_time(wait) == done
    assert waiting.engine.waiting == 0


async def test_what_is_done_is_returned_at_once(world, waiting):
    done = await waiting.finish()
    assert await world.in_time(waiting.wait()) == done


async def test_changes_before_the_end_wake_nobody(world, waiting):
    (wait,) = await waiting.park()
    await world.inner.record_progress(waiting.claim.lease, None, RESPONSE)
    await world.inner.finish(waiting.claim.lease, Retry(UNEXPECTED, timedelta(seconds=1)))
    await world.clock.advance(0)
    assert not wait.done()


@pytest.mark.parametrize("delay", ["delay_before", "delay_after"])
async def test_an_end_between_read_and_subscription_is_not_missed(world, waiting, delay):
    waiting.store.inject(Fault(**{delay: 1}), "get", times=1)
    (wait,) = await waiting.park()
    done = await waiting.finish()
    assert await world.in_time(wait, 1) == done


@pytest.mark.parametrize("delay", ["delay_before", "delay_after"])
async def test_an_end_while_a_second_waiter_reads_is_not_missed(world, waiting, delay):
    await waiting.park()
    waiting.store.inject(Fault(**{delay: 1}), "get_many", times=1)
    second = waiting.wait()
    await world.clock.advance(0)
    done = await waiting.finish()
    assert await world.in_time(second, 1) == done


async def test_a_second_waiter_finds_an_end_of_which_the_hint_was_lost(world, waiting):
    (first,) = await waiting.park()
    waiting.store.changes.hints = Hints.LOST
    done = await waiting.finish()
    assert await world.in_time(waiting.wait()) == done
    assert await world.in_time(first) == done


async def test_the_poll_finds_an_end_of_which_the_hint_was_lost(world, waiting):
    waiting.store.changes.hints = Hints.LOST
    (wait,) = await waiting.park()
    done = await waiting.finish()
    assert await world.in_time(wait, POLL.total_seconds()) == done


async def test_a_timeout_returns_the_latest_state(world, waiting):
    (wait,) = await waiting.park(seconds=5)
    latest = await world.inner.record_progress(waiting.claim.lease, None, RESPONSE)
    await world.clock.advance(4.9)
    assert not wait.done()
    assert await world.in_time(wait, 0.1) == latest
    assert waiting.engine.waiting == 0


async def test_no_call_waits_longer_than_the_setting_allows(world, waiting):
    waits = await waiting.park() + [waiting.wait(10**9)]
    await world.clock.advance(59.9)
    assert not any(wait.done() for wait in waits)
    await world.clock.advance(0.1)
    assert all(wait.done() for wait in waits)


@pytest.mark.parametrize("seconds", [0, -1])
async def test_without_time_the_state_is_returned_at_once(world, waiting, seconds):
    assert await world.in_time(waiting.wait(seconds)) == waiting.claim.operation


@pytest.mark.parametrize("seconds", [0, 10])
async def test_an_unknown_operation_is_told_at_once(world, waiting, seconds):
    call = waiting.engine.manager.wait("operations/none", seconds)
    with pytest.raises(OperationNotFoundError):
        await world.in_time(call)
    assert waiting.engine.waiting == 0


@pytest.mark.parametrize("hints", [Hints.PASSED, Hints.BARE, Hints.VAGUE])
async def test_a_deleted_operation_is_told_to_everybody_who_waits(world, waiting, hints):
    waiting.store.changes.hints = hints
    waits = await waiting.park(3)
    await world.inner.delete(waiting.name)
    await world.clock.advance(0)
    for wait in waits:
        with pytest.raises(OperationNotFoundError, match=waiting.name):
            wait.result()


async def test_a_deletion_while_a_waiter_reads_leaves_no_error_that_nobody_takes(
    world, waiting, caplog
):
    waiting.store.inject(Fault(delay_before=1), "get", times=1)
    (wait,) = await waiting.park()
    await world.inner.delete(waiting.name)
    await world.clock.advance(1)
    with pytest.raises(OperationNotFoundError):
        wait.result()
    del wait
    gc.collect()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_deletion_of_which_the_hint_was_lost_is_found_by_the_poll(world, waiting):
    waiting.store.changes.hints = Hints.LOST
    (wait,) = await waiting.park()
    await world.inner.delete(waiting.name)
    await world.clock.advance(10)
    with pytest.raises(OperationNotFoundError):
        wait.result()


async def test_more_waiters_than_the_limit_are_refused(world):
    waiting = await waiting_in(world, max_waiters=2)
    waits = await waiting.park(2)
    with pytest.raises(TooManyWaitersError):
        await world.in_time(waiting.wait())
    assert await world.in_time(waiting.wait(0)) == waiting.claim.operation
    waits[0].cancel()
    await world.clock.advance(0)
    third = waiting.wait()
    await world.clock.advance(0)
    assert waiting.engine.waiting == 2
    assert not third.done()


async def test_abandoned_waiters_leave_no_trace(world, waiting):
    timers = len(world.clock._timers)
    for _ in range(10):
        for wait in await waiting.park(1000):
            wait.cancel()
        await world.clock.advance(0)
    assert waiting.engine.waiting == 0
    assert waiting.engine._hub._waiters == {}
    await world.clock.advance(60)
    assert len(world.clock._timers) <= timers
    await waiting.finish()


async def test_ten_thousand_waiters_of_one_operation_share_their_reads(world, waiting):
    waits = await waiting.park(10_000)
    assert waiting.reads() <= 2
    done = await waiting.finish()
    await world.clock.advance(0)
    assert all(wait.result() == done for wait in waits)
    assert waiting.reads() <= 2


@pytest.mark.parametrize("hints", [Hints.BARE, Hints.VAGUE])
async def test_a_hint_without_the_record_costs_one_read_for_all_who_wait(world, waiting, hints):
    waits = await waiting.park(10_000)
    waiting.store.changes.hints = hints
    before = waiting.reads()
    done = await waiting.finish()
    await world.clock.advance(0)
    assert all(wait.result() == done for wait in waits)
    assert waiting.reads() == before + 1


async def test_the_poll_costs_one_read_however_many_wait(world, waiting):
    for _ in range(5):
        await world.insert()
    names = [waiting.name, *[f"operations/op-{number:05}" for number in range(2, 7)]]
    waits = [asyncio.create_task(waiting.engine.manager.wait(name, None)) for name in names * 100]
    await world.clock.advance(0)
    before = waiting.reads()
    await world.clock.advance(55)
    assert before + 5 <= waiting.reads() <= before + 11  # each pause is a half to the whole
    assert not any(wait.done() for wait in waits)


async def test_nobody_is_looked_up_while_nobody_waits(world, waiting):
    await world.clock.advance(600)
    assert waiting.reads() == 0


async def test_a_release_answers_everybody_with_the_latest_state(world, waiting):
    waits = await waiting.park(3)
    waiting.engine.release_waiters()
    await world.clock.advance(0)
    assert [wait.result() for wait in waits] == [waiting.claim.operation] * 3
    assert await world.in_time(waiting.wait()) == waiting.claim.operation


async def test_who_was_woken_may_wait_again(world, waiting):
    waits = await waiting.park(3)
    waiting.engine.wake_waiters()
    await world.clock.advance(0)
    assert [wait.result() for wait in waits] == [waiting.claim.operation] * 3
    again = waiting.wait()
    await world.clock.advance(0)
    assert not again.done()
    done = await waiting.finish()
    assert await world.in_time(again) == done


async def test_a_stop_answers_everybody(world, waiting):
    waits = await waiting.park(3)
    await world.in_time(waiting.engine.stop())
    await world.clock.advance(0)
    assert [wait.result() for wait in waits] == [waiting.claim.operation] * 3


async def test_an_outage_while_calls_wait_is_not_seen_by_them(world, waiting):
    waits = await waiting.park(3)
    waiting.store.changes.hints = Hints.VAGUE
    waiting.store.inject(AWAY)
    done = await waiting.finish()
    await world.clock.advance(30)
    assert not any(wait.done() for wait in waits)
    waiting.store.heal()
    await world.clock.advance(1)
    assert [wait.result() for wait in waits] == [done] * 3
    assert not waiting.engine.died.done()


async def test_an_outage_when_a_call_begins_takes_of_its_time_and_adds_none(world, waiting):
    waiting.store.inject(AWAY)
    wait = waiting.wait(10)
    await world.clock.advance(6)
    waiting.store.heal()
    await world.clock.advance(3.9)
    assert not wait.done()
    assert await world.in_time(wait, 0.1) == waiting.claim.operation


async def test_an_outage_when_a_wait_ends_is_absorbed_without_waiting_again(world, waiting):
    (wait,) = await waiting.park(seconds=10)
    await world.clock.advance(9)
    waiting.store.inject(AWAY)
    await world.clock.advance(3)
    assert not wait.done()
    waiting.store.heal()
    assert await world.in_time(wait, 1) == waiting.claim.operation


async def test_an_outage_is_told_when_the_patience_is_over(world, waiting):
    (wait,) = await waiting.park(seconds=10, patience=12)
    waiting.store.inject(AWAY)
    await world.clock.advance(11.9)
    assert not wait.done()
    await world.clock.advance(0.1)
    with pytest.raises(StoreUnavailableError):
        wait.result()


async def test_a_lost_answer_of_the_store_is_asked_for_again(world, waiting):
    waiting.store.inject(ANSWER_LOST, "get", times=1)
    await waiting.finish()
    assert (await world.in_time(waiting.wait(), 1)).done


async def test_an_operation_that_cannot_be_read_ends_its_own_waits_and_no_others(
    durable_world, tmp_path, caplog
):
    engine = await durable_world.engine(execute=False, waiter_poll_interval=POLL)
    names = [await durable_world.insert() for _ in range(5)]
    waits = {
        name: [asyncio.create_task(engine.manager.wait(name, None)) for _ in range(2)]
        for name in names
    }
    await durable_world.written()
    bad, done = names[1], names[3]
    with closing(sqlite3.connect(tmp_path / "operations.db")) as connection, connection:
        connection.execute("UPDATE operations SET progress = '[1' WHERE name = ?", [bad])
    durable_world.store.changes.hints = Hints.LOST
    await durable_world.inner.request_cancel(done)
    await durable_world.clock.advance(POLL.total_seconds())
    assert all(it.done for it in await asyncio.gather(*waits.pop(done)))
    for error in await asyncio.gather(*waits.pop(bad), return_exceptions=True):
        assert isinstance(error, ValueError)
    assert f"{bad}, which is waited for, cannot be read" in caplog.text
    await durable_world.written()
    assert not any(wait.done() for both in waits.values() for wait in both)
    assert not engine.died.done()


async def test_no_end_is_missed_on_disk(durable_world):
    """The hint comes from the writer thread, at any moment of the wait."""
    engine = await durable_world.engine(execute=False, waiter_poll_interval=timedelta(days=1))
    for _ in range(100):
        name = await durable_world.insert()
        claim = await durable_world.take()
        finishing = asyncio.create_task(
            durable_world.inner.finish(claim.lease, Succeeded(RESPONSE))
        )
        assert (await engine.manager.wait(name, None)) == await finishing
