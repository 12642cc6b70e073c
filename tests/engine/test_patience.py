import asyncio

import pytest

from outlast.domain.errors import OperationNotFoundError, StoreUnavailableError
from outlast.engine.patience import absorb, within


class Call:
    """Fails so many times, then answers."""

    def __init__(self, clock, failures):
        self.clock = clock
        self.failures = failures
        self.times = []

    async def __call__(self):
        self.times.append(self.clock.monotonic())
        if len(self.times) <= self.failures:
            raise StoreUnavailableError("away")
        return "answer"


async def outcome(clock, call, seconds, advance):
    task = asyncio.create_task(absorb(clock, call, seconds))
    await clock.advance(advance)
    assert task.done()
    return task


async def test_the_first_answer_is_returned(clock):
    call = Call(clock, 0)
    assert (await outcome(clock, call, 10, 0)).result() == "answer"
    assert call.times == [0]


async def test_a_call_is_made_again_until_the_store_answers(clock):
    call = Call(clock, 5)
    assert (await outcome(clock, call, 10, 10)).result() == "answer"
    assert len(call.times) == 6


async def test_the_pauses_grow_up_to_a_second(clock):
    call = Call(clock, 20)
    await outcome(clock, call, 60, 60)
    pauses = [b - a for a, b in zip(call.times, call.times[1:], strict=False)]
    assert pauses[0] == pytest.approx(0.02)
    assert pauses == pytest.approx(sorted(pauses))
    assert pauses[-1] == pytest.approx(1)


async def test_the_error_is_raised_when_the_time_is_over_and_not_before(clock):
    call = Call(clock, 10**6)
    task = asyncio.create_task(absorb(clock, call, 5))
    await clock.advance(4.99)
    assert not task.done()
    await clock.advance(0.02)
    with pytest.raises(StoreUnavailableError, match="away"):
        task.result()
    assert call.times[-1] == pytest.approx(4.26)


@pytest.mark.parametrize("seconds", [0, -1])
async def test_without_time_a_call_is_made_once(clock, seconds):
    call = Call(clock, 10**6)
    with pytest.raises(StoreUnavailableError):
        (await outcome(clock, call, seconds, 0)).result()
    assert call.times == [0]
    assert (await outcome(clock, Call(clock, 0), seconds, 0)).result() == "answer"


async def test_a_store_that_never_answers_is_unavailable_when_the_time_is_over(clock):
    cancelled = []

    async def call():
        try:
            await clock.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(clock.monotonic())
            raise

    task = asyncio.create_task(absorb(clock, call, 5))
    await clock.advance(4.99)
    assert not task.done()
    await clock.advance(0.01)
    with pytest.raises(StoreUnavailableError, match="does not answer"):
        task.result()
    assert cancelled == [5]


async def test_the_time_of_calls_that_fail_slowly_counts(clock):
    async def call():
        await clock.sleep(2)
        raise StoreUnavailableError("away")

    with pytest.raises(StoreUnavailableError, match="away"):
        (await outcome(clock, call, 3, 3)).result()


async def test_other_errors_pass_at_once(clock):
    calls = 0

    async def call():
        nonlocal calls
        calls += 1
        raise OperationNotFoundError("operations/1")

    with pytest.raises(OperationNotFoundError):
        (await outcome(clock, call, 10, 0)).result()
    assert calls == 1


async def test_another_error_ends_the_patience(clock):
    answers = iter([StoreUnavailableError("away"), OperationNotFoundError("operations/1")])

    async def call():
        raise next(answers)

    with pytest.raises(OperationNotFoundError):
        (await outcome(clock, call, 10, 1)).result()


async def test_a_limit_passes_on_what_a_call_returns_or_raises_in_time(clock):
    async def call(error=None):
        await clock.sleep(1)
        if error is not None:
            raise error
        return "answer"

    task = asyncio.create_task(within(clock, call, 2))
    failing = asyncio.create_task(within(clock, lambda: call(KeyError("key")), 2))
    await clock.advance(1)
    assert task.result() == "answer"
    with pytest.raises(KeyError):
        failing.result()


async def test_a_limit_cancels_the_call_and_not_its_task(clock):
    async def limited():
        with pytest.raises(TimeoutError):
            await within(clock, lambda: clock.sleep(3600), 1)
        return asyncio.current_task().cancelling()

    task = asyncio.create_task(limited())
    await clock.advance(1)
    assert task.result() == 0


@pytest.mark.parametrize("over", [True, False], ids=["as the time is over", "before"])
async def test_a_limit_leaves_a_cancellation_by_others_to_them(clock, monkeypatch, over):
    ends = []
    call_later = clock.call_later
    monkeypatch.setattr(
        clock, "call_later", lambda seconds, end: (ends.append(end), call_later(seconds, end))[1]
    )
    task = asyncio.create_task(within(clock, asyncio.Event().wait, 1))
    await clock.advance(0.5)
    if over:
        ends[0]()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_limit_takes_an_answer_that_a_call_gives_although_it_is_cancelled(clock):
    async def call():
        try:
            await clock.sleep(3600)
        except asyncio.CancelledError:
            return asyncio.current_task().cancelling()

    async def limited():
        return await within(clock, call, 1), asyncio.current_task().cancelling()

    task = asyncio.create_task(limited())
    await clock.advance(1)
    assert task.result() == (1, 0)
