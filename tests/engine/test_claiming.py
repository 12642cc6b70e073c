"""When operations are taken up, and how many of them."""

from datetime import timedelta

from outlast.domain.status import Code, Status
from outlast.domain.transitions import Failed
from outlast.testing.faults import ANSWER_LOST, AWAY, Fault, Hints

SLOW_POLL = timedelta(days=1)
"""With it nothing is found but by hints."""
OTHER = "example.v1.Books/Bind"


async def test_what_is_inserted_runs_at_once(world, handler):
    await world.engine(world.method(handler), poll_interval=SLOW_POLL)
    name = await world.begin()
    assert handler.names == [name]
    assert await world.state(name) == "RUNNING"


async def test_what_was_there_before_the_start_runs_at_once(world, handler):
    name = await world.begin()
    await world.engine(world.method(handler), poll_interval=SLOW_POLL)
    assert handler.names == [name]


async def test_a_vague_hint_is_enough(world, handler):
    world.store.changes.hints = Hints.VAGUE
    await world.engine(world.method(handler), poll_interval=SLOW_POLL)
    name = await world.begin()
    assert handler.names == [name]


async def test_without_hints_the_poll_finds_it_within_the_interval(world, handler):
    world.store.changes.hints = Hints.LOST
    await world.engine(world.method(handler), poll_interval=timedelta(seconds=5))
    await world.clock.advance(100)
    name = await world.begin()
    assert handler.names == []
    await world.clock.advance(5)
    assert handler.names == [name]


async def test_polls_are_jittered_and_idle_workers_ask_for_little(world, handler):
    await world.engine(world.method(handler), poll_interval=timedelta(seconds=1))
    await world.clock.advance(100)
    assert 100 <= world.store.calls["claim"] <= 201


async def test_a_hint_that_comes_while_claiming_is_not_lost(world, handler):
    await world.engine(world.method(handler), poll_interval=SLOW_POLL)
    world.store.inject(Fault(delay_after=1), "claim", times=1)
    first = await world.begin()
    second = await world.begin()
    assert handler.names == []
    await world.clock.advance(1)
    assert handler.names == [first, second]


async def test_operations_of_unknown_methods_are_left_to_others(world, handler):
    await world.engine(world.method(handler))
    name = await world.begin(OTHER)
    await world.clock.advance(10)
    assert await world.state(name) == "PENDING"


async def test_no_more_run_than_the_concurrency_allows(world, handler):
    await world.engine(world.method(handler), concurrency=3)
    names = [await world.begin() for _ in range(10)]
    await world.clock.advance(10)
    assert handler.names == names[:3]
    handler.let_go.set()
    await world.clock.advance(0)
    assert handler.names == names
    assert handler.peak == 3
    assert {await world.state(name) for name in names} == {"SUCCEEDED"}


async def test_freed_slots_are_used_at_once_without_a_poll(world, handler):
    await world.engine(world.method(handler), concurrency=1, poll_interval=SLOW_POLL)
    for _ in range(5):
        await world.begin()
    handler.let_go.set()
    await world.clock.advance(0)
    assert handler.attempts == 5
    assert handler.peak == 1


async def test_no_more_of_a_method_run_than_its_own_concurrency_allows(world, new_handler):
    few, many = new_handler(), new_handler()
    await world.engine(world.method(few, concurrency=2), world.method(many, OTHER), concurrency=8)
    for _ in range(6):
        await world.begin()
        await world.begin(OTHER)
    await world.clock.advance(10)
    assert (few.active, many.active) == (2, 6)
    few.let_go.set()
    many.let_go.set()
    await world.clock.advance(0)
    assert (few.attempts, many.attempts) == (6, 6)
    assert (few.peak, many.peak) == (2, 6)


async def test_an_exhausted_method_does_not_starve_another(world, new_handler):
    busy, other = new_handler(), new_handler()
    await world.engine(
        world.method(busy, concurrency=1), world.method(other, OTHER), poll_interval=SLOW_POLL
    )
    for _ in range(100):
        await world.insert()
    name = await world.begin(OTHER)
    assert busy.active == 1
    assert other.names == [name]


async def test_an_exhausted_method_goes_on_at_once_although_others_were_claimed_meanwhile(
    world, new_handler
):
    busy, other = new_handler(), new_handler()
    await world.engine(
        world.method(busy, concurrency=1), world.method(other, OTHER), poll_interval=SLOW_POLL
    )
    first = await world.begin()
    second = await world.begin()
    await world.begin(OTHER)
    busy.let_go.set()
    await world.clock.advance(0)
    assert busy.names == [first, second]


async def test_what_becomes_due_is_taken_then_without_polling(world, handler):
    await world.engine(world.method(handler), poll_interval=SLOW_POLL)
    due = world.clock.now() + timedelta(seconds=7)
    name = await world.begin(ready_time=due)
    asked = world.store.calls["claim"]
    await world.clock.advance(6.9)
    assert handler.names == []
    assert world.store.calls["claim"] == asked
    await world.clock.advance(0.1)
    assert handler.names == [name]


async def test_a_clock_of_the_worker_that_is_behind_delays_nothing_beyond_the_poll(world, handler):
    await world.engine(world.method(handler), poll_interval=timedelta(seconds=1))
    due = world.clock.now() + timedelta(seconds=7)
    await world.begin(ready_time=due)
    world.clock.jump(-3)
    await world.clock.advance(7)
    assert handler.names == []
    world.clock.jump(3)
    await world.clock.advance(1)
    assert handler.attempts == 1


async def test_an_operation_of_a_silent_worker_is_taken_over_within_lease_and_a_second(
    world, handler
):
    name = await world.insert()
    await world.take(lease=timedelta(seconds=30))
    world.store.changes.hints = Hints.LOST
    await world.engine(world.method(handler))
    await world.clock.advance(29.9)
    assert handler.names == []
    await world.clock.advance(1.1)
    assert handler.names == [name]
    assert (await world.get(name)).lease_epoch == 2


async def test_an_outage_of_the_store_delays_claims_and_no_more(world, handler):
    await world.engine(world.method(handler), poll_interval=SLOW_POLL)
    world.store.inject(AWAY, "claim")
    name = await world.begin()
    await world.clock.advance(60)
    assert handler.names == []
    world.store.heal()
    await world.clock.advance(1)
    assert handler.names == [name]


async def test_an_error_of_the_store_does_not_end_the_claims(world, handler, caplog):
    engine = await world.engine(world.method(handler))
    world.store.inject(Fault(fails=AWAY.fails, error=lambda: ValueError("a bug")), "claim", times=2)
    name = await world.begin()
    await world.clock.advance(3)
    assert handler.names == [name]
    assert not engine.died.done()
    assert "a bug" in caplog.text


async def test_a_claim_whose_answer_is_lost_is_made_up_for_when_its_lease_ends(world, handler):
    await world.engine(world.method(handler), lease=timedelta(seconds=30))
    world.store.inject(ANSWER_LOST, "claim", times=1)
    name = await world.begin()
    await world.clock.advance(29)
    assert handler.names == []
    await world.clock.advance(2)
    assert handler.names == [name]


async def test_what_a_claim_ends_does_not_hold_up_what_is_behind_it(durable_world, handler):
    """A store may count what it ends towards the limit of a claim."""
    for _ in range(5):
        await durable_world.insert()
        claim = await durable_world.take(lease=timedelta(seconds=1))
        await durable_world.inner.request_cancel(claim.operation.name)
    await durable_world.clock.advance(1)
    name = await durable_world.insert()
    await durable_world.engine(
        durable_world.method(handler), concurrency=2, poll_interval=timedelta(seconds=60)
    )
    for _ in range(4):
        await durable_world.written()
        await durable_world.clock.advance(0.25)
    assert handler.names == [name]


async def test_two_workers_never_run_the_same_operation_at_the_same_time(world, new_handler):
    first, second = new_handler(), new_handler()
    await world.engine(world.method(first), store=world.client(), concurrency=3)
    await world.engine(world.method(second), store=world.client(), concurrency=3)
    names = [await world.insert() for _ in range(6)]
    await world.clock.advance(100)
    assert sorted(first.names + second.names) == names


async def test_every_start_of_an_executor_has_a_worker_id_of_its_own(world, handler):
    engines = [await world.engine(world.method(handler)) for _ in range(3)]
    assert len({engine.executor.worker for engine in engines}) == 3
    name = await world.begin()
    assert (await world.get(name)).worker in {engine.executor.worker for engine in engines}


async def test_an_engine_that_does_not_execute_leaves_the_work_to_others(world, handler):
    await world.engine(world.method(handler), execute=False)
    name = await world.begin()
    await world.clock.advance(100)
    assert await world.state(name) == "PENDING"


async def test_an_engine_takes_only_what_it_was_told_to(world, new_handler):
    first, second = new_handler(), new_handler()
    methods = world.method(first, "books/Print"), world.method(second, "books/Bind")
    engine = await world.engine(*methods, taken=["books/Print"])
    assert [*engine.taken] == ["books/Print"]
    assert [*engine.methods] == ["books/Print", "books/Bind"]
    names = [await world.begin("books/Bind"), await world.begin("books/Print")]
    await world.clock.advance(100)
    assert (first.names, second.names) == (names[1:], [])
    await world.engine(*methods, taken=["books/Bind"])
    await world.clock.advance(0)
    assert (first.names, second.names) == (names[1:], names[:1])


async def test_what_ended_meanwhile_is_not_run(world, handler):
    name = await world.insert()
    claim = await world.take()
    await world.inner.finish(claim.lease, Failed(Status(Code.ABORTED, "over")))
    await world.engine(world.method(handler))
    await world.clock.advance(100)
    assert handler.names == []
    assert await world.state(name) == "FAILED"
