import asyncio

import pytest

from outlast.domain.errors import OperationNotFoundError, StoreUnavailableError
from outlast.engine.patience import absorb


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
    with pytest.raises(StoreUnavailableError):
        task.result()
    assert call.times[-1] == pytest.approx(5)


@pytest.mark.parametrize("seconds", [0, -1])
async def test_without_time_a_call_is_made_again_once_and_at_once(clock, seconds):
    call = Call(clock, 10**6)
    with pytest.raises(StoreUnavailableError):
        (await outcome(clock, call, seconds, 0)).result()
    assert call.times == [0, 0]


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
