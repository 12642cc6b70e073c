"""What becomes of an attempt, and of its operation."""

import asyncio
from datetime import timedelta

import pytest

from outlast.domain.errors import StoreUnavailableError
from outlast.domain.status import Code, Payload, Status
from outlast.domain.transitions import DEADLINE_EXCEEDED
from outlast.engine.outcome import LONGEST_RETRY_DELAY, UNEXPECTED, AttemptFailedError
from outlast.engine.retry import RetryPolicy
from outlast.testing.faults import ANSWER_LOST, AWAY, Fault, Moment

SLOW_POLL = timedelta(days=1)
RETRY = RetryPolicy(initial_backoff=timedelta(seconds=10), jitter=0)


def jam(code=Code.UNAVAILABLE):
    return AttemptFailedError(Status(code, "the press is jammed"))


async def test_a_response_is_the_result(world, handler):
    handler.let_go.set()
    await world.engine(world.method(handler))
    operation = await world.get(await world.begin())
    assert operation.state == "SUCCEEDED"
    assert operation.response == Payload("example.v1.Book", b"response")


async def test_a_failed_attempt_is_made_again_after_the_backoff_without_polling(world, handler):
    handler.let_go.set()
    handler.error = jam()
    await world.engine(world.method(handler, retry=RETRY), poll_interval=SLOW_POLL)
    name = await world.begin()
    assert handler.attempts == 1
    await world.clock.advance(9.9)
    assert handler.attempts == 1
    await world.clock.advance(0.1)
    assert handler.attempts == 2
    handler.error = None
    await world.clock.advance(20)
    operation = await world.get(name)
    assert (operation.state, operation.attempt) == ("SUCCEEDED", 3)


async def test_attempts_end_at_the_maximum_as_a_dead_letter(world, handler):
    handler.let_go.set()
    handler.error = jam()
    await world.engine(world.method(handler, retry=RETRY))
    name = await world.begin(max_attempts=2)
    await world.clock.advance(100)
    operation = await world.get(name)
    assert handler.attempts == operation.attempt == 2
    assert (operation.state, operation.dead_letter) == ("FAILED", True)
    assert operation.error == jam().status


async def test_a_failure_that_is_not_worth_a_retry_ends_at_once(world, handler):
    handler.let_go.set()
    handler.error = jam(Code.INVALID_ARGUMENT)
    await world.engine(world.method(handler))
    operation = await world.get(await world.begin())
    assert (operation.state, operation.dead_letter) == ("FAILED", False)
    assert operation.error == jam(Code.INVALID_ARGUMENT).status


@pytest.mark.parametrize(
    "error",
    [
        ValueError("secret"),
        SystemExit("secret"),
        KeyboardInterrupt("secret"),
        GeneratorExit("secret"),
        StopAsyncIteration("secret"),
        asyncio.CancelledError("secret"),
        BaseExceptionGroup("secret", [SystemExit("secret")]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_a_handler_raises_ends_its_attempt_and_nothing_else(world, handler, error):
    handler.let_go.set()
    handler.error = error
    engine = await world.engine(world.method(handler))
    name = await world.begin(max_attempts=1)
    operation = await world.get(name)
    assert operation.error == UNEXPECTED
    assert operation.dead_letter
    handler.error = None
    assert await world.state(await world.begin()) == "SUCCEEDED"
    assert not engine.died.done()


def raise_exit():
    raise GeneratorExit("secret")


async def in_thread(context):
    await context.run_in_thread(raise_exit)


async def in_task(_):
    async def work():
        raise_exit()

    await asyncio.create_task(work())


async def in_task_of_a_task(context):
    await asyncio.create_task(in_thread(context))


async def in_group(context):
    async with asyncio.TaskGroup() as group:
        group.create_task(in_thread(context))


async def in_future(_):
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_exception, GeneratorExit("secret"))
    await future


@pytest.mark.parametrize("exits", [in_thread, in_task, in_task_of_a_task, in_group, in_future])
async def test_a_generator_exit_in_what_a_handler_awaits_is_a_failure(world, exits):
    cleaned = []
    ended = asyncio.Event()

    async def run(_request, context):
        try:
            await exits(context)
        finally:
            await asyncio.sleep(0)
            cleaned.append(context.operation.attempt)
            ended.set()

    engine = await world.engine(world.method(run, retry=RETRY))
    name = await world.begin(max_attempts=2)
    for attempt in (1, 2):
        await asyncio.wait_for(ended.wait(), 20)
        ended.clear()
        await world.clock.advance(0)
        assert (await world.get(name)).state == ["PENDING", "FAILED"][attempt - 1]
        await world.clock.advance(10 if attempt == 1 else 0)
    operation = await world.get(name)
    assert (operation.error, operation.dead_letter) == (UNEXPECTED, True)
    assert cleaned == [1, 2]
    assert not engine.died.done()


async def test_a_handler_may_catch_a_generator_exit_as_an_error(world):
    async def run(_request, context):
        with pytest.raises(RuntimeError, match="GeneratorExit"):
            await in_future(context)
        await asyncio.sleep(0)
        return Payload("")

    await world.engine(world.method(run))
    assert await world.state(await world.begin()) == "SUCCEEDED"


async def test_a_handler_that_returns_no_payload_ends_its_attempt(world):
    async def wrong(_request, _context):
        return None

    await world.engine(world.method(wrong))
    operation = await world.get(await world.begin(max_attempts=1))
    assert operation.error == UNEXPECTED


@pytest.mark.parametrize(
    "error", [jam(), ValueError(), AttemptFailedError(Status(Code.ABORTED, 5))], ids=repr
)
@pytest.mark.parametrize("broken", [KeyError(), SystemExit(), KeyboardInterrupt()], ids=repr)
async def test_a_failure_that_cannot_be_judged_ends_the_operation(world, handler, error, broken):
    class Broken(RetryPolicy):
        def delay(self, attempt, chance):
            raise broken

    handler.let_go.set()
    handler.error = error
    engine = await world.engine(world.method(handler, retry=Broken()))
    operation = await world.get(await world.begin())
    assert operation.error == UNEXPECTED
    assert engine.executor.running == 0
    handler.error = None
    assert await world.state(await world.begin()) == "SUCCEEDED"


async def test_a_response_over_the_limit_fails_the_operation(world, handler):
    handler.let_go.set()
    await world.engine(world.method(handler), max_response_bytes=7)
    operation = await world.get(await world.begin())
    assert operation.error.code is Code.RESOURCE_EXHAUSTED
    assert "8 bytes" in operation.error.message
    assert handler.attempts == 1


async def test_an_error_over_the_limit_is_cut_short(world, handler):
    handler.let_go.set()
    handler.error = AttemptFailedError(Status(Code.ABORTED, "m" * 1000))
    await world.engine(world.method(handler), max_error_bytes=100)
    operation = await world.get(await world.begin())
    assert operation.error.message == "m" * 25


async def test_the_deadline_stops_the_handler_and_ends_the_operation(world, handler):
    await world.engine(world.method(handler))
    name = await world.begin(timeout=timedelta(seconds=60))
    await world.clock.advance(59.9)
    assert handler.cancelled == 0
    await world.clock.advance(0.1)
    assert handler.cancelled == 1
    operation = await world.get(name)
    assert (operation.state, operation.error) == ("FAILED", DEADLINE_EXCEEDED)
    assert not operation.dead_letter


async def test_the_deadline_holds_for_all_attempts_together(world, handler):
    await world.engine(world.method(handler, retry=RETRY))
    name = await world.begin(timeout=timedelta(seconds=60))
    handler.error = jam()
    await world.clock.advance(40)
    handler.let_go.set()
    await world.clock.advance(1)
    handler.let_go.clear()
    await world.clock.advance(18)
    assert handler.attempts == 2
    assert await world.state(name) == "RUNNING"
    await world.clock.advance(1)
    assert (await world.get(name)).error == DEADLINE_EXCEEDED


async def test_no_retry_is_waited_for_beyond_the_deadline(world, handler):
    await world.engine(world.method(handler, retry=RETRY))
    name = await world.begin(timeout=timedelta(seconds=60))
    handler.error = jam()
    await world.clock.advance(55)
    handler.let_go.set()
    await world.clock.advance(0)
    operation = await world.get(name)
    assert operation.error == DEADLINE_EXCEEDED
    assert operation.last_error == jam().status


async def test_a_result_within_the_grace_after_the_deadline_counts(world, handler):
    handler.stubborn = True
    await world.engine(world.method(handler), cancel_grace=timedelta(seconds=10))
    name = await world.begin(timeout=timedelta(seconds=60))
    await world.clock.advance(69)
    handler.let_go.set()
    await world.clock.advance(0)
    assert await world.state(name) == "SUCCEEDED"


async def test_a_handler_that_ignores_the_deadline_is_abandoned(world, handler, caplog):
    handler.stubborn = True
    engine = await world.engine(world.method(handler), cancel_grace=timedelta(seconds=10))
    name = await world.begin(timeout=timedelta(seconds=60))
    await world.clock.advance(69.9)
    assert await world.state(name) == "RUNNING"
    await world.clock.advance(0.1)
    ended = await world.get(name)
    assert ended.error == DEADLINE_EXCEEDED
    assert f"{name} does not stop" in caplog.text
    assert engine.executor.running == 1
    handler.let_go.set()
    await world.clock.advance(100)
    assert await world.get(name) == ended
    assert engine.executor.running == 0
    assert engine.executor.refused_writes == 0


async def test_an_abandoned_handler_keeps_its_slot_until_it_ends(world, handler):
    handler.stubborn = True
    await world.engine(world.method(handler), concurrency=1)
    await world.begin(timeout=timedelta(seconds=60))
    second = await world.begin()
    await world.clock.advance(200)
    assert handler.peak == 1
    handler.let_go.set()
    await world.clock.advance(1)
    assert await world.state(second) == "SUCCEEDED"


async def test_a_deadline_that_passes_while_nobody_works_ends_the_operation(world, handler):
    name = await world.insert(timeout=timedelta(seconds=10))
    await world.take(lease=timedelta(seconds=30))
    await world.engine(world.method(handler))
    await world.clock.advance(31)
    assert (await world.get(name)).error == DEADLINE_EXCEEDED
    assert handler.attempts == 0


async def test_an_outcome_is_written_when_the_store_is_back(world, handler):
    await world.engine(world.method(handler))
    name = await world.begin()
    world.store.inject(AWAY, "finish")
    handler.let_go.set()
    await world.clock.advance(600)
    assert await world.state(name) == "RUNNING"
    world.store.heal()
    await world.clock.advance(6)
    operation = await world.get(name)
    assert (operation.state, operation.attempt) == ("SUCCEEDED", 1)


async def test_an_outcome_whose_answer_is_lost_is_written_once(world, handler):
    await world.engine(world.method(handler))
    world.store.inject(ANSWER_LOST, "finish", times=1)
    handler.let_go.set()
    name = await world.begin()
    ended = await world.get(name)
    assert ended.state == "SUCCEEDED"
    await world.clock.advance(60)
    assert await world.get(name) == ended
    assert handler.attempts == 1


async def test_an_outcome_that_the_store_rejects_ends_the_operation_as_unexpected(world, handler):
    await world.engine(world.method(handler))
    rejected = Fault(fails=Moment.BEFORE, error=lambda: OverflowError("too much for this store"))
    world.store.inject(rejected, "finish", times=1)
    handler.let_go.set()
    operation = await world.get(await world.begin())
    assert operation.error == UNEXPECTED


async def test_a_retry_after_more_time_than_there_is_comes_within_a_year(world, handler):
    handler.let_go.set()
    handler.error = AttemptFailedError(jam().status, timedelta.max)
    await world.engine(world.method(handler))
    operation = await world.get(await world.begin())
    assert operation.state == "PENDING"
    assert operation.ready_time == world.clock.now() + LONGEST_RETRY_DELAY


async def test_a_store_that_rejects_every_outcome_loses_the_attempt_and_no_worker(world, handler):
    engine = await world.engine(world.method(handler), lease=timedelta(seconds=30))
    rejected = Fault(fails=Moment.BEFORE, error=lambda: OverflowError("too much for this store"))
    world.store.inject(rejected, "finish")
    handler.let_go.set()
    name = await world.begin()
    assert engine.executor.running == 0
    world.store.heal()
    await world.clock.advance(31)
    operation = await world.get(name)
    assert (operation.state, operation.lease_epoch) == ("SUCCEEDED", 2)


async def test_a_handler_that_gives_a_store_outage_up_is_retried(world):
    errors = [StoreUnavailableError("away")]

    async def run(_request, _context):
        if errors:
            raise errors.pop()
        return Payload("")

    await world.engine(world.method(run, retry=RETRY))
    name = await world.begin()
    await world.clock.advance(10)
    assert await world.state(name) == "SUCCEEDED"


@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancellation_that_a_handler_leaves_behind_does_not_lose_its_outcome(
    durable_world, times
):
    async def run(_request, _context):
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for turn in range(times):
            loop.call_later(turn * 0.0005, task.cancel)  # while the store is at work
        loop.call_soon(task.cancel)
        return Payload("example.v1.Book")

    engine = await durable_world.engine(durable_world.method(run))
    names = [await durable_world.insert() for _ in range(20)]
    await engine.executor.drain()
    found = [await durable_world.get(name) for name in names]
    assert [(it.state, it.lease_epoch) for it in found] == [("SUCCEEDED", 1)] * 20
