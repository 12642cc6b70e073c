"""The rules for leases, one by one, on every store.

They have the numbers of the table in docs/architecture.md, which names the other tests
that show them. Rule 13 has no place here, and 17 is gRPC's: `tests/rpc/test_wait.py`.
"""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from itertools import chain

import pytest

from outlast.domain.errors import LeaseLostError
from outlast.domain.operation import Lease, Progress
from outlast.domain.status import Payload
from outlast.domain.transitions import Succeeded
from outlast.engine.engine import Engine
from outlast.engine.methods import Method
from outlast.engine.settings import EngineSettings
from outlast.stores.memory import MemoryStore
from outlast.stores.sqlite import SqliteStore
from outlast.testing.clock import ManualClock
from outlast.testing.contract.driver import Driver
from outlast.testing.faults import AWAY, Fault, Hints

METHOD = "example.v1.Books/Print"
LEASE = timedelta(seconds=30)
SLOW_POLL = timedelta(days=1)
LATE = Payload("example.v1.Late", b"late")


@pytest.fixture(params=["world", "durable_world"], ids=["memory", "sqlite"])
def world(request):
    """A world on each store."""
    return request.getfixturevalue(request.param)


async def pass_time(world, seconds, turn=1.0):
    """Let time pass so slowly that what a turn begins is over before the next one."""
    for _ in range(round(seconds / turn)):
        await world.clock.advance(turn)
        await world.written()


async def begin(world, handler):
    """Begin an operation, and return its name when its handler runs."""
    handler.began.clear()
    name = await world.begin()
    await handler.began.wait()
    return name


async def taken_over(world, name):
    """Have another worker take an operation over of which this one knows nothing yet."""
    world.store.inject(AWAY, "claim")
    await world.written()
    world.clock.jump(LEASE.total_seconds())
    claim = await world.take()
    assert claim.operation.name == name
    return claim


class Late:
    """A handler that writes when it is let go, whatever it is told."""

    def __init__(self, write) -> None:
        self.began = asyncio.Event()
        self.let_go = asyncio.Event()
        self.refused = 0
        self.stopped = asyncio.Event()
        self._write = write

    async def __call__(self, _request, context):
        self.began.set()
        await self.let_go.wait()
        try:
            await self._write(context)
        except LeaseLostError:  # which a careless handler takes for something else
            self.refused += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.stopped.set()
            raise


async def progress(context):
    await context.report(Progress(1, 1), LATE)


async def step(context):
    await context.record_step("late", LATE)


@pytest.mark.parametrize("write", [progress, step], ids=["progress", "step"])
async def test_rule_1_a_late_write_is_refused_counted_and_logged_and_stops_the_handler(
    world, caplog, write
):
    late = Late(write)
    engine = await world.engine(world.method(late), lease=LEASE)
    name = await begin(world, late)
    rival = await taken_over(world, name)
    late.let_go.set()
    await late.stopped.wait()
    await world.clock.advance(0)
    assert late.refused == engine.executor.refused_writes == 1
    assert caplog.text.count(f"a write for operation {name} was refused: epoch 1 is over") == 1
    assert engine.executor.running == 0
    assert await world.get(name) == rival.operation
    assert await world.inner.steps(name) == {}


async def test_rule_1_a_late_outcome_is_refused_counted_and_logged(world, handler, caplog):
    engine = await world.engine(world.method(handler), lease=LEASE)
    name = await begin(world, handler)
    rival = await taken_over(world, name)
    handler.let_go.set()
    await world.clock.advance(0)
    await world.written()
    assert engine.executor.refused_writes == 1
    assert caplog.text.count(f"a write for operation {name} was refused: epoch 1 is over") == 1
    assert engine.executor.running == 0
    assert await world.get(name) == rival.operation


async def test_rule_1_a_late_renewal_is_refused_counted_and_logged_and_stops_the_handler(
    world, handler, caplog
):
    engine = await world.engine(world.method(handler), lease=LEASE)
    name = await begin(world, handler)
    rival = await taken_over(world, name)
    await pass_time(world, 11)
    assert engine.executor.refused_writes == 1
    assert caplog.text.count(f"operation {name} was taken over; it is stopped here") == 1
    assert (handler.cancelled, engine.executor.running) == (1, 0)
    assert await world.get(name) == rival.operation


async def test_rule_2_a_lease_is_renewed_or_taken_over_and_never_both(world):
    for turn in range(20):
        name = await world.insert()
        first = await world.take()
        await world.clock.advance(LEASE.total_seconds())
        renew = world.inner.renew([first.lease], LEASE)
        claim = world.inner.claim("other", {METHOD: 1}, 1, LEASE)
        if turn % 2:
            renewal, claims = await asyncio.gather(renew, claim)
        else:
            claims, renewal = await asyncio.gather(claim, renew)
        lost = first.lease in renewal.lost
        assert [it.operation.name for it in claims.claims] == [name] * lost
        history = [(it.epoch, it.outcome) for it in await world.inner.attempts(name)]
        assert history == ([(1, "LOST"), (2, "RUNNING")] if lost else [(1, "RUNNING")])
        await world.inner.finish(Lease(name, 1 + lost), Succeeded(LATE))


async def test_rule_3_a_lease_lives_by_its_renewal_and_one_call_renews_all(world, handler):
    await world.engine(world.method(handler), lease=LEASE)
    names = [await begin(world, handler) for _ in range(5)]
    renewed = world.store.calls["renew"]
    await pass_time(world, 10 * LEASE.total_seconds(), turn=5.0)
    assert 29 <= world.store.calls["renew"] - renewed <= 31
    assert {(await world.get(name)).lease_epoch for name in names} == {1}


async def test_rule_4_who_cannot_renew_stops_before_the_lease_ends_and_claims_nothing(
    world, handler
):
    engine = await world.engine(world.method(handler), lease=LEASE)
    name = await begin(world, handler)
    world.store.inject(AWAY, "renew")
    waiting = None
    for second in range(29):
        await pass_time(world, 1)
        if second == 10:
            waiting = await world.begin()
    assert (handler.cancelled, engine.executor.running) == (1, 0)
    assert (await world.get(name)).ready_time > world.clock.now()
    assert world.store.calls["finish"] == 0
    assert await world.state(waiting) == "PENDING"


async def test_rule_5_every_start_has_a_worker_id_of_its_own(world, new_handler):
    workers = set()
    for _ in range(3):
        handler = new_handler()
        engine = await world.engine(world.method(handler), poll_interval=SLOW_POLL)
        name = await begin(world, handler)
        workers.add((await world.get(name)).worker)
        handler.let_go.set()
        await world.clock.advance(0)
        await world.written()
        await engine.executor.stop()
    assert len(workers) == 3


@pytest.mark.parametrize("hours", [-1, 1], ids=["behind", "ahead"])
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_rule_6_the_clock_of_the_store_alone_decides(tmp_path, new_handler, kind, hours):
    """Whatever time of day the worker has."""
    handler = new_handler()
    handler.let_go.set()
    clock = ManualClock()
    wrong = ManualClock(clock.now() + timedelta(hours=hours))
    async with AsyncExitStack() as stack:
        opening = {
            "memory": lambda: MemoryStore.open(clock=clock),
            "sqlite": lambda: SqliteStore.open(tmp_path / "operations.db", clock=clock),
        }[kind]()
        store = await stack.enter_async_context(opening)
        driver = Driver(store, clock)
        lost = await driver.start("dead")
        due = await driver.insert(ready_time=clock.now() + LEASE)
        engine = await stack.enter_async_context(Engine.open(store, wrong, EngineSettings()))
        engine.register(Method(name=METHOD, run=handler, metadata_type=""))
        engine.start()
        # The worker's time passes, and the store's does not.
        await _turns(wrong, store, 100)
        assert handler.names == []
        await clock.advance(LEASE.total_seconds() - 0.000001)
        await _turns(wrong, store, 5)
        assert handler.names == []
        await clock.advance(0.000001)
        await _turns(wrong, store, 5)
        assert sorted(handler.names) == sorted([lost.operation.name, due.name])


async def test_rule_7_a_claim_takes_no_more_than_its_limit_whatever_else_claims(world):
    names = {await world.insert() for _ in range(40)}
    rounds = await asyncio.gather(
        *(world.inner.claim(f"worker-{number}", {METHOD: 9}, 3, LEASE) for number in range(20))
    )
    given = [[claim.operation.name for claim in it.claims] for it in rounds]
    assert all(len(it) <= 3 for it in given)
    assert sorted(chain.from_iterable(given)) == sorted(names)


async def test_rule_8_a_lost_lease_frees_its_slot(world, new_handler):
    handler = new_handler()
    await world.engine(world.method(handler, concurrency=1), lease=LEASE)
    await begin(world, handler)
    world.store.inject(AWAY)
    await pass_time(world, 29)
    assert handler.cancelled == 1
    world.store.heal()
    handler.began.clear()
    await world.insert()
    await pass_time(world, 3)
    assert handler.active == 1


async def test_rule_8_a_dead_worker_holds_no_slot_of_others(world, handler):
    for _ in range(3):
        await world.insert()
    await world.inner.claim("dead", {METHOD: 3}, 3, LEASE)
    name = await world.insert()
    await world.engine(world.method(handler, concurrency=1), lease=LEASE)
    await handler.began.wait()
    assert handler.names == [name]


async def test_rule_9_what_no_hint_tells_of_is_found_by_the_poll(world, handler):
    world.store.changes.hints = Hints.LOST
    await world.engine(world.method(handler), poll_interval=timedelta(seconds=5))
    name = await world.begin()
    await pass_time(world, 5)
    assert handler.names == [name]


async def test_rule_10_who_waits_subscribes_before_reading(world, handler):
    engine = await world.engine(
        world.method(handler), execute=False, waiter_poll_interval=SLOW_POLL, max_wait=SLOW_POLL
    )
    name = await world.insert()
    claim = await world.take()
    for method in ("get", "get_many"):
        world.store.inject(Fault(delay_after=5), method, times=1)
    waiting = asyncio.create_task(engine.manager.wait(name, None))
    await world.clock.advance(0)
    await world.written()
    # The read has its answer, which has not arrived.
    await world.inner.finish(claim.lease, Succeeded(LATE))
    await pass_time(world, 10)
    assert waiting.done()
    assert waiting.result().response == LATE


async def test_rule_11_a_request_to_cancel_is_told_by_the_renewal(world, handler):
    world.store.changes.hints = Hints.LOST
    await world.engine(world.method(handler), lease=LEASE)
    name = await world.begin()
    await pass_time(world, 2)
    assert handler.names == [name]
    await world.inner.request_cancel(name)
    await pass_time(world, 12)
    assert handler.cancelled == 1
    assert await world.state(name) == "CANCELLED"


async def test_rule_11_a_request_ends_what_never_began_or_has_lost_its_worker(world, handler):
    lost = await world.insert()
    await world.take()
    await world.inner.request_cancel(lost)
    never = await world.insert()
    await world.inner.request_cancel(never)
    assert [await world.state(it) for it in (lost, never)] == ["RUNNING", "CANCELLED"]
    await world.engine(world.method(handler), lease=LEASE)
    await pass_time(world, 31)
    assert await world.state(lost) == "CANCELLED"
    assert handler.names == []


async def test_rule_12_a_stop_gives_back_what_runs_and_counts_no_attempt(world, new_handler):
    handler = new_handler()
    engine = await world.engine(world.method(handler), lease=LEASE)
    names = [await begin(world, handler) for _ in range(3)]
    await engine.executor.stop()
    records = [await world.get(name) for name in names]
    assert {(it.state, it.attempt, it.interruptions) for it in records} == {("PENDING", 0, 0)}
    assert [await world.inner.attempts(name) for name in names] == [[]] * 3


async def test_rule_14_the_figures_of_the_queue_are_one_query(clock, tmp_path):
    async with SqliteStore.open(tmp_path / "operations.db", clock=clock) as store:
        driver = Driver(store, clock)
        for number in range(20):
            await driver.insert(method=f"example.v1.Books/Method{number}")
        statements = []
        store._file.reader.set_trace_callback(statements.append)
        assert len(await store.stats()) == 20
        store._file.reader.set_trace_callback(None)
    assert len(statements) == 1


async def test_rule_15_what_has_expired_is_purged_in_batches(world):
    driver = Driver(world.inner, world.clock)
    for _ in range(10):
        await driver.run(Succeeded(LATE))
    await world.clock.advance(3600)
    assert [await world.inner.expire(4) for _ in range(4)] == [4, 4, 2, 0]


async def test_rule_16_one_request_id_gives_one_operation_as_long_as_that_is_kept(world):
    driver = Driver(world.inner, world.clock)
    fields = {"request_id": "r", "request_digest": b"d"}
    results = await asyncio.gather(*(driver.try_insert(**fields) for _ in range(20)))
    (name,) = {it.operation.name for it in results}
    assert sum(it.created for it in results) == 1
    await world.inner.finish((await driver.claim_one()).lease, Succeeded(LATE))
    await world.clock.advance(3599)
    assert (await driver.try_insert(**fields)).operation.name == name
    await world.clock.advance(1)
    assert (await driver.try_insert(**fields)).created


async def _turns(clock, store, count):
    for _ in range(count):
        await clock.advance(1)
        await store.renew([], LEASE)
        await clock.advance(0)
