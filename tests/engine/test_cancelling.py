"""Cancellation: it is durable, it reaches the handler, and a real result wins."""

import asyncio
from datetime import timedelta

import pytest

from outlast.domain.errors import LeaseLostError, OperationNotFoundError
from outlast.domain.status import Code, Payload, Status
from outlast.domain.transitions import CANCELLED, DEADLINE_EXCEEDED
from outlast.engine.outcome import AttemptFailedError
from outlast.testing.faults import Fault, Hints

LEASE = timedelta(seconds=30)


async def test_a_handler_is_cancelled_in_the_tick_after_the_request(world, handler):
    engine = await world.engine(world.method(handler))
    name = await world.begin()
    await engine.manager.cancel(name)
    await asyncio.sleep(0)
    assert handler.cancelled == 1
    assert handler.contexts[0].cancel_requested
    await world.clock.advance(0)
    operation = await world.get(name)
    assert (operation.state, operation.error) == ("CANCELLED", CANCELLED)


@pytest.mark.parametrize("hints", [Hints.BARE, Hints.VAGUE])
async def test_a_poor_hint_of_a_request_is_enough(world, handler, hints):
    engine = await world.engine(world.method(handler))
    world.store.changes.hints = hints
    name = await world.begin()
    await engine.manager.cancel(name)
    await world.clock.advance(0)
    assert await world.state(name) == "CANCELLED"


async def test_without_hints_the_renewal_tells_of_the_request(world, handler):
    engine = await world.engine(world.method(handler), lease=LEASE)
    world.store.changes.hints = Hints.LOST
    name = await world.begin()
    await world.clock.advance(1)
    assert handler.active == 1
    await engine.manager.cancel(name)
    await world.clock.advance(10)
    assert handler.contexts[0].cancel_requested
    assert await world.state(name) == "CANCELLED"


async def test_a_request_on_another_node_reaches_the_handler(world, handler):
    client = await world.engine(world.method(handler), store=world.client(), execute=False)
    await world.engine(world.method(handler))
    name = await world.begin()
    await client.manager.cancel(name)
    await world.clock.advance(0)
    assert await world.state(name) == "CANCELLED"


async def test_a_request_while_the_claim_is_under_way_is_not_lost(world, handler):
    """The hint comes before the worker knows what it was given."""
    world.store.inject(Fault(delay_after=1), "claim", times=1)
    engine = await world.engine(world.method(handler), lease=LEASE)
    name = await world.begin()
    world.store.inject(Fault(delay_after=1), "claim", times=1)
    await world.clock.advance(1)
    await world.begin()
    assert await world.state(name) == "RUNNING"
    assert handler.attempts == 0
    await engine.manager.cancel(name)
    await world.clock.advance(1)
    assert await world.state(name) == "CANCELLED"


async def test_a_vague_hint_while_the_claim_is_under_way_is_not_lost(world, handler):
    world.store.changes.hints = Hints.VAGUE
    name = await world.insert()
    world.store.inject(Fault(delay_after=1), "claim", times=1)
    engine = await world.engine(world.method(handler), lease=LEASE)
    await engine.manager.cancel(name)
    await world.clock.advance(1)
    assert await world.state(name) == "CANCELLED"


async def test_a_request_before_the_handler_has_taken_its_first_step_leaks_nothing(world, handler):
    """The task exists, and nothing of it has run yet."""
    engine = await world.engine(world.method(handler), lease=LEASE, concurrency=1)
    name = await world.insert()
    while engine.executor.running == 0:  # noqa: ASYNC110  # the very moment is wanted
        await asyncio.sleep(0)
    if handler.attempts == 0:
        await engine.manager.cancel(name)
    await world.clock.advance(0)
    assert await world.state(name) == "CANCELLED"
    assert engine.executor.running == 0
    handler.let_go.set()
    assert await world.state(await world.begin()) == "SUCCEEDED"


async def test_an_operation_that_waits_is_cancelled_at_once_and_never_runs(world, handler):
    engine = await world.engine(world.method(handler), concurrency=1)
    await world.begin()
    waiting = await world.begin()
    await engine.manager.cancel(waiting)
    assert await world.state(waiting) == "CANCELLED"
    handler.let_go.set()
    await world.clock.advance(100)
    assert waiting not in handler.names


async def test_an_operation_that_waits_for_a_retry_is_cancelled_at_once(world, handler):
    handler.error = AttemptFailedError(Status(Code.UNAVAILABLE, "jammed"))
    handler.let_go.set()
    engine = await world.engine(world.method(handler))
    name = await world.begin()
    await engine.manager.cancel(name)
    assert await world.state(name) == "CANCELLED"
    await world.clock.advance(100)
    assert handler.attempts == 1


async def test_a_result_in_spite_of_the_request_wins(world, handler):
    handler.stubborn = True
    engine = await world.engine(world.method(handler))
    name = await world.begin()
    await engine.manager.cancel(name)
    await world.clock.advance(100)
    assert await world.state(name) == "RUNNING"
    handler.let_go.set()
    await world.clock.advance(0)
    assert await world.state(name) == "SUCCEEDED"


async def test_a_failure_in_spite_of_the_request_wins(world, handler):
    handler.stubborn = True
    handler.error = AttemptFailedError(Status(Code.DATA_LOSS, "burnt"))
    engine = await world.engine(world.method(handler))
    name = await world.begin()
    await engine.manager.cancel(name)
    handler.let_go.set()
    await world.clock.advance(0)
    operation = await world.get(name)
    assert (operation.state, operation.error.code) == ("FAILED", Code.DATA_LOSS)


async def test_a_failure_that_would_be_retried_is_not_after_the_request(world, handler):
    handler.stubborn = True
    handler.error = AttemptFailedError(Status(Code.UNAVAILABLE, "jammed"))
    engine = await world.engine(world.method(handler))
    name = await world.begin()
    await engine.manager.cancel(name)
    handler.let_go.set()
    await world.clock.advance(100)
    assert await world.state(name) == "CANCELLED"
    assert handler.attempts == 1


async def test_an_error_while_cleaning_up_is_told_to_the_operator_only(world, caplog):
    began = asyncio.Event()

    async def run(_request, _context):
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("the ink is dry")

    engine = await world.engine(world.method(run))
    name = await world.begin()
    assert began.is_set()
    await engine.manager.cancel(name)
    await world.clock.advance(0)
    assert await world.state(name) == "CANCELLED"
    assert "the ink is dry" in caplog.text


async def test_a_handler_that_ignores_the_request_is_still_bound_by_its_deadline(world, handler):
    handler.stubborn = True
    engine = await world.engine(world.method(handler), cancel_grace=timedelta(seconds=10))
    name = await world.begin(timeout=timedelta(seconds=60))
    await engine.manager.cancel(name)
    await world.clock.advance(69)
    assert await world.state(name) == "RUNNING"
    await world.clock.advance(1)
    assert (await world.get(name)).error == DEADLINE_EXCEEDED


async def test_a_handler_that_ignores_the_request_for_too_long_is_abandoned(world, handler):
    handler.stubborn = True
    engine = await world.engine(world.method(handler), cancel_limit=timedelta(seconds=90))
    name = await world.begin()
    await engine.manager.cancel(name)
    await world.clock.advance(89)
    assert await world.state(name) == "RUNNING"
    await world.clock.advance(1)
    assert await world.state(name) == "CANCELLED"
    ended = await world.get(name)
    with pytest.raises(LeaseLostError):
        await handler.contexts[0].record_step("late", Payload("application/json", b"1"))
    handler.let_go.set()
    await world.clock.advance(0)
    assert await world.get(name) == ended


async def test_a_handler_is_cancelled_once_however_often_it_is_asked_for(world, handler):
    handler.stubborn = True
    engine = await world.engine(world.method(handler), lease=LEASE)
    name = await world.begin()
    for _ in range(3):
        await engine.manager.cancel(name)
        await world.clock.advance(20)
    assert handler.cancelled == 1


async def test_a_request_for_what_has_ended_changes_nothing(world, handler):
    handler.let_go.set()
    engine = await world.engine(world.method(handler))
    name = await world.begin()
    ended = await world.get(name)
    await engine.manager.cancel(name)
    assert await world.get(name) == ended


async def test_a_request_for_nothing_is_told_so(world, handler):
    engine = await world.engine(world.method(handler))
    with pytest.raises(OperationNotFoundError):
        await engine.manager.cancel("operations/none")


async def test_a_request_ends_an_operation_whose_worker_is_gone(world, handler):
    name = await world.insert()
    await world.take(lease=LEASE)
    engine = await world.engine(world.method(handler))
    await engine.manager.cancel(name)
    assert await world.state(name) == "RUNNING"
    await world.clock.advance(31)
    assert await world.state(name) == "CANCELLED"
    assert handler.attempts == 0


async def test_a_deleted_operation_works_on_and_does_not_come_back(world, handler):
    engine = await world.engine(world.method(handler))
    name = await world.begin()
    await engine.manager.delete(name)
    assert handler.active == 1
    handler.let_go.set()
    await world.clock.advance(0)
    assert handler.active == handler.cancelled == 0
    with pytest.raises(OperationNotFoundError):
        await engine.manager.get(name)


@pytest.mark.assertion(68)
async def test_of_ten_thousand_cancellations_that_race_with_the_end_each_leaves_one_result(world):
    completed = set()

    async def run(_, context):
        for _ in range(int(context.operation.target)):
            await asyncio.sleep(0)
        completed.add(context.operation.name)
        return Payload("example.v1.Book", b"response")

    async def race(number):
        name = await world.insert(target=str(number % 29))
        for _ in range(number % 31):
            await asyncio.sleep(0)
        await engine.manager.cancel(name)
        done = await engine.manager.wait(name, None)
        if done.state == "SUCCEEDED":
            assert done.response is not None
            assert name in completed
        else:
            assert (done.state, done.error, done.response) == ("CANCELLED", CANCELLED, None)
        return done

    engine = await world.engine(world.method(run))
    ends = []
    for first in range(0, 10_000, 50):
        ends += await asyncio.gather(*(race(number) for number in range(first, first + 50)))
    assert {end.state for end in ends} == {"SUCCEEDED", "CANCELLED"}
    for end in ends:
        assert await world.get(end.name) == end
