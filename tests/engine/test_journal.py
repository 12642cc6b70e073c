"""What the log says of operations: once each, at a level that fits, and no payloads."""

import asyncio
import logging
from datetime import timedelta

import pytest

from outlast.domain.status import Code, Payload, Status
from outlast.domain.transitions import Retry
from outlast.engine.outcome import AttemptFailedError
from outlast.engine.retry import RetryPolicy

JAMMED = AttemptFailedError(Status(Code.UNAVAILABLE, "jammed", (Payload("type", b"secret"),)))
STEADY = RetryPolicy(initial_backoff=timedelta(seconds=4), jitter=0)


@pytest.fixture
def told(caplog):
    """Return the levels and lines of what was told of operations so far."""
    caplog.set_level(logging.DEBUG, "outlast")

    def told():
        return [
            (record.levelname, record.getMessage())
            for record in caplog.records
            if record.name == "outlast.engine.journal"
        ]

    return told


async def test_a_retry_is_told_with_its_reason_and_its_time(world, handler, told):
    handler.error = JAMMED
    handler.let_go.set()
    await world.engine(world.method(handler, retry=STEADY))
    name = await world.begin()
    due = (world.clock.now() + timedelta(seconds=4)).isoformat()
    assert told() == [
        (
            "INFO",
            (
                f"attempt 1 of 3 of operation {name} failed with UNAVAILABLE, 'jammed'; "
                f"the next one is due at {due}"
            ),
        )
    ]


async def test_a_dead_letter_is_told_after_its_retries(world, handler, told, caplog):
    handler.error = JAMMED
    handler.let_go.set()
    await world.engine(world.method(handler, retry=STEADY))
    name = await world.begin()
    await world.clock.advance(60)
    assert [level for level, _ in told()] == ["INFO", "INFO", "WARNING"]
    assert told()[-1][1] == (
        f"operation {name} is a dead letter: attempt 3 of 3 failed with UNAVAILABLE, 'jammed'"
    )
    assert "secret" not in caplog.text


async def test_a_message_is_told_in_one_line_of_a_bounded_length(world, handler, told):
    handler.error = AttemptFailedError(Status(Code.UNAVAILABLE, "\n" * 10_000))
    handler.let_go.set()
    await world.engine(world.method(handler))
    await world.begin()
    ((_, line),) = told()
    assert "\n" not in line
    assert len(line) < 1000


async def test_a_time_limit_is_told_once(world, handler, told):
    await world.engine(world.method(handler))
    name = await world.begin(timeout=timedelta(seconds=5))
    await world.clock.advance(60)
    assert told() == [
        (
            "INFO",
            f"operation {name} did not end within its time limit: attempt 1 of 3 was its last",
        )
    ]


async def test_a_time_limit_that_a_retry_would_exceed_is_told(world, handler, told):
    handler.error = JAMMED
    handler.let_go.set()
    await world.engine(world.method(handler, retry=STEADY))
    await world.begin(timeout=timedelta(seconds=3))
    assert [level for level, _ in told()] == ["INFO"]
    assert "time limit" in told()[0][1]


async def test_a_time_limit_that_runs_out_while_nobody_works_is_told(world, handler, told):
    name = await world.insert(timeout=timedelta(seconds=5))
    claim = await world.take()
    await world.inner.finish(claim.lease, Retry(JAMMED.status, timedelta(seconds=1)))
    await world.clock.advance(10)
    await world.engine(world.method(handler))
    assert handler.attempts == 0
    assert told() == [
        (
            "INFO",
            f"operation {name} did not end within its time limit: attempt 1 of 3 was its last",
        )
    ]


async def test_taking_over_from_a_worker_that_was_lost_is_told(world, handler, told):
    name = await world.insert()
    await world.take(lease=timedelta(seconds=30))
    await world.engine(world.method(handler))
    await world.clock.advance(31)
    assert told() == [
        (
            "WARNING",
            f"operation {name} is run again, as attempt 1 of 3: its worker was lost, 1 in a row",
        )
    ]


async def test_a_worker_that_is_lost_in_the_last_attempt_is_told(world, handler, told):
    name = await world.insert(max_attempts=1)
    await world.take(lease=timedelta(seconds=30))
    await world.engine(world.method(handler))
    await world.clock.advance(31)
    assert told() == [
        (
            "WARNING",
            (
                f"operation {name} is a dead letter: attempt 1 of 1 failed with ABORTED, "
                "'the worker was lost in the last attempt that the operation had'"
            ),
        )
    ]


async def test_what_ends_as_it_should_is_not_told(world, handler, new_handler, told):
    refusing = new_handler()
    refusing.error = AttemptFailedError(Status(Code.INVALID_ARGUMENT, "no such page"))
    refusing.let_go.set()
    engine = await world.engine(world.method(handler), world.method(refusing, "refusing"))
    cancelled = await world.begin()
    await engine.manager.cancel(cancelled)
    await world.begin("refusing")
    released = await world.begin()
    stopping = asyncio.create_task(engine.executor.stop())
    await world.in_time(stopping)
    assert await world.state(released) == "PENDING"
    handler.let_go.set()
    await world.engine(world.method(handler))
    assert await world.state(released) == "SUCCEEDED"
    await engine.manager.delete(released)
    assert told() == []
