"""When another attempt is made: by the policy of the method, or as the failure asks."""

from datetime import timedelta

import pytest

from outlast.domain.status import Code, Status
from outlast.engine.outcome import AttemptFailedError
from outlast.engine.retry import RetryPolicy

JAMMED = Status(Code.UNAVAILABLE, "the press is jammed")
PRINT, BIND = "example.v1.Books/Print", "example.v1.Books/Bind"


def policy(seconds, **fields):
    backoff = timedelta(seconds=seconds)
    return RetryPolicy(initial_backoff=backoff, max_backoff=timedelta(hours=1), jitter=0, **fields)


def failing(new_handler, error=None):
    handler = new_handler()
    handler.let_go.set()
    handler.error = error or AttemptFailedError(JAMMED)
    return handler


async def test_each_method_is_retried_by_its_own_policy(world, new_handler):
    first, second = failing(new_handler), failing(new_handler)
    await world.engine(
        world.method(first, PRINT, retry=policy(10)),
        world.method(second, BIND, retry=policy(3, multiplier=1)),
    )
    for method in (PRINT, BIND):
        await world.begin(method, max_attempts=9)
    seen = []
    for _ in range(13):
        await world.clock.advance(1)
        seen.append((first.attempts, second.attempts))
    assert [count for count, _ in seen].index(2) == 9
    assert [second for _, second in seen] == [1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5]


async def test_the_wait_grows_from_attempt_to_attempt(world, new_handler):
    handler = failing(new_handler)
    await world.engine(world.method(handler, retry=policy(2)))
    await world.begin(max_attempts=4)
    for seconds, attempts in ((1, 1), (1, 2), (3, 2), (1, 3), (7, 3), (1, 4)):
        await world.clock.advance(seconds)
        assert handler.attempts == attempts


async def test_backoff_holds_across_restarts(durable_world, new_handler):
    world = durable_world
    before, after = failing(new_handler), failing(new_handler)
    engine = await world.engine(world.method(before, retry=policy(600)))
    name = await world.begin()
    await before.began.wait()
    while (waiting := await world.get(name)).state != "PENDING":
        await world.written()
    due = waiting.ready_time
    assert due == world.clock.now() + timedelta(seconds=600)
    await world._stop(engine)

    # Another policy does not change what was stored.
    await world.engine(world.method(after, retry=policy(1)))
    left = (due - world.clock.now()).total_seconds()
    assert left > 60
    await world.clock.advance(left - 1)
    await world.written()
    assert after.attempts == 0
    assert (await world.get(name)).ready_time == due
    await world.clock.advance(2)
    await after.began.wait()
    assert after.contexts[0].operation.attempt == 2


async def test_a_retry_waits_as_long_as_the_failure_asks(world, new_handler):
    handler = failing(new_handler, AttemptFailedError(JAMMED, timedelta(seconds=40)))
    await world.engine(world.method(handler, retry=policy(1)))
    await world.begin()
    await world.clock.advance(39)
    assert handler.attempts == 1
    await world.clock.advance(1)
    assert handler.attempts == 2


@pytest.mark.parametrize("delay", [timedelta(seconds=60), timedelta.max], ids=str)
async def test_a_retry_that_would_come_after_the_deadline_is_not_waited_for(
    world, new_handler, delay
):
    handler = failing(new_handler, AttemptFailedError(JAMMED, delay))
    await world.engine(world.method(handler))
    name = await world.begin(timeout=timedelta(seconds=60))
    await world.clock.advance(0)
    operation = await world.get(name)
    assert operation.done
    assert operation.error.code is Code.DEADLINE_EXCEEDED
    assert operation.last_error == JAMMED
    assert not operation.dead_letter
