"""Durable steps: what they return, when they are done again, and by whose policy."""

import asyncio
import contextvars
import logging
from datetime import timedelta

import pytest
from outlastapi.script.v1 import script_pb2

import outlast
from outlast.testing.clock import ManualClock

UNAVAILABLE = outlast.OperationFailed(outlast.Code.UNAVAILABLE, "the press is jammed")
PATIENT = outlast.RetryPolicy(
    max_attempts=3, initial_backoff=timedelta(seconds=10), multiplier=2, jitter=0
)
DAY = timedelta(days=1)
"""Longer than these tests move the clock, whatever time a store needs to renew a lease."""
AT_ONCE = outlast.RetryPolicy(max_attempts=2, initial_backoff=timedelta(milliseconds=1))


class Press:
    """A step that fails as often as it is told to."""

    def __init__(self, *errors: BaseException):
        self.errors = list(errors)
        self.calls = 0
        self.called = asyncio.Event()

    async def __call__(self):
        self.calls += 1
        self.called.set()
        if self.errors:
            raise self.errors.pop(0)
        return self.calls


def text(done):
    """Return what the handler answered."""
    return script_pb2.RunScriptResponse.FromString(done.response.value).text


def printing(press, **options):
    async def work(_, operation):
        number = await operation.step("print", press, **options)
        return script_pb2.RunScriptResponse(text=str(number))

    return work


async def test_a_step_that_fails_is_tried_again_by_its_own_policy(serving, scripted):
    clock, press = ManualClock(), Press(UNAVAILABLE, ValueError("ink"))
    work = scripted(printing(press, retry=PATIENT), retry=outlast.RetryPolicy(max_attempts=1))
    async with serving(work, clock=clock, lease=DAY) as client:
        started = await client.run()
        for pause in (10, 20):
            await press.called.wait()
            press.called.clear()
            await clock.advance(pause - 0.001)
            assert not press.called.is_set()
            await clock.advance(0.001)
        done = await client.done(started)
        assert text(done) == "3"
        assert client.metadata(done).attempt == 1


async def test_when_its_tries_are_used_up_the_policy_of_the_operation_decides(serving, scripted):
    press = Press(*[UNAVAILABLE] * 3)
    async with serving(scripted(printing(press, retry=AT_ONCE), retry=AT_ONCE)) as client:
        done = await client.finished()
        assert text(done) == "4"
        assert client.metadata(done).attempt == 2


async def test_without_a_policy_of_its_own_a_step_is_tried_once_in_an_attempt(serving, scripted):
    press = Press(UNAVAILABLE)
    async with serving(scripted(printing(press), retry=AT_ONCE)) as client:
        assert client.metadata(await client.finished()).attempt == 2
        assert press.calls == 2


async def test_a_failure_that_the_policy_does_not_name_is_not_tried_again(serving, scripted):
    press = Press(outlast.OperationFailed(outlast.Code.DATA_LOSS, "burnt"))
    async with serving(scripted(printing(press, retry=PATIENT))) as client:
        done = await client.finished()
        assert (done.error.code, done.error.message) == (outlast.Code.DATA_LOSS, "burnt")
        assert press.calls == 1


async def test_a_failure_that_says_when_is_tried_again_then(serving, scripted):
    clock, delay = ManualClock(), timedelta(seconds=77)
    press = Press(outlast.OperationFailed(outlast.Code.DATA_LOSS, "later", retry_delay=delay))
    async with serving(scripted(printing(press, retry=PATIENT)), clock=clock, lease=DAY) as client:
        started = await client.run()
        await press.called.wait()
        await clock.advance(76.999)
        assert press.calls == 1
        await clock.advance(0.001)
        assert text(await client.done(started)) == "2"


async def test_a_pause_between_tries_ends_with_a_cancellation(serving, scripted):
    clock, press = ManualClock(), Press(UNAVAILABLE)
    async with serving(scripted(printing(press, retry=PATIENT)), clock=clock, lease=DAY) as client:
        started = await client.run()
        await press.called.wait()
        await client.cancel(started.name)
        done = await client.done(started)
        assert done.error.code == outlast.Code.CANCELLED
        assert press.calls == 1


async def test_a_pause_between_tries_ends_at_the_deadline(serving, scripted):
    clock, press = ManualClock(), Press(UNAVAILABLE)
    work = scripted(printing(press, retry=PATIENT), timeout=timedelta(seconds=5))
    async with serving(work, clock=clock, lease=DAY) as client:
        started = await client.run()
        await press.called.wait()
        await clock.advance(5)
        done = await client.done(started)
        assert done.error.code == outlast.Code.DEADLINE_EXCEEDED
        assert press.calls == 1


async def test_a_step_that_is_tried_again_is_logged(serving, scripted, caplog):
    caplog.set_level(logging.INFO, "outlast.engine.journal")
    press = Press(UNAVAILABLE)
    async with serving(scripted(printing(press, retry=AT_ONCE))) as client:
        done = await client.finished()
        line = (
            f"step 'print' of operation {done.name} failed with UNAVAILABLE, 'the press is jammed'"
        )
        assert line in caplog.text


async def test_a_policy_that_is_none_is_refused(serving, scripted):
    press = Press()
    async with serving(scripted(printing(press, retry=3), retry=AT_ONCE)) as client:
        done = await client.finished()
        assert done.error.code == outlast.Code.INTERNAL
        assert press.calls == 0


@pytest.mark.parametrize(
    "result",
    [
        None,
        0,
        -1.5,
        True,
        "ü",
        [1, [2]],
        {"a": {"b": None}},
        script_pb2.RunScriptResponse(text="ü"),
    ],
    ids=repr,
)
async def test_a_later_attempt_gets_what_the_step_returned(serving, scripted, result):
    seen, calls = [], []

    async def make():
        calls.append(1)
        return result

    async def work(_, operation):
        seen.append(await operation.step("make", make))
        if operation.attempt == 1:
            raise UNAVAILABLE

    async with serving(scripted(work, retry=AT_ONCE)) as client:
        assert client.metadata(await client.finished()).attempt == 2
    assert seen == [result, result]
    assert [type(it) for it in seen] == [type(result)] * 2
    assert len(calls) == 1


async def test_a_method_that_has_changed_goes_on_with_the_steps_that_it_still_has(
    serving, scripted
):
    """As after a deployment: `a` is gone, `b` is still there, `c` is new."""
    called = []

    async def work(_, operation):
        for key in "ab" if operation.attempt == 1 else "bc":
            await operation.step(key, called.append, key)
        if operation.attempt == 1:
            raise UNAVAILABLE

    async with serving(scripted(work, retry=AT_ONCE)) as client:
        assert (await client.finished()).HasField("response")
    assert called == ["a", "b", "c"]


async def test_nothing_counts_that_a_task_writes_when_its_attempt_is_over(serving, scripted):
    leaked, over = [], asyncio.Event()

    async def write_late(operation):
        await over.wait()
        await operation.step("late", int)

    async def report_late(operation):
        await over.wait()
        await operation.progress(completed=9, total=9)

    async def work(_, operation):
        leaked.extend(
            # The attempt's own tasks would be cancelled with its end.
            asyncio.create_task(late(operation), context=contextvars.Context())
            for late in (write_late, report_late)
        )

    async with serving(scripted(work)) as client:
        done = await client.finished()
        over.set()
        errors = await asyncio.gather(*leaked, return_exceptions=True)
        assert [type(error).__name__ for error in errors] == ["LeaseLostError"] * 2
        assert await client.get(done.name) == done
