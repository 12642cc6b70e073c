import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from outlast.testing.clock import ManualClock

START = datetime(2030, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


async def test_time_stands_still_by_itself(clock):
    before = (clock.now(), clock.monotonic())
    await asyncio.sleep(0)
    assert (clock.now(), clock.monotonic()) == before == (START, 0)


async def test_advancing_moves_both_times(clock):
    await clock.advance(1.5)
    assert clock.now() == START + timedelta(seconds=1.5)
    assert clock.monotonic() == 1.5


async def test_many_small_steps_add_up_exactly(clock):
    for _ in range(10):
        await clock.advance(0.1)
    assert clock.now() == START + timedelta(seconds=1)
    assert clock.monotonic() == 1


async def test_time_does_not_pass_backwards(clock):
    with pytest.raises(ValueError, match="backwards"):
        await clock.advance(-1)


async def test_jumping_moves_the_time_of_day_alone(clock):
    fired = []
    clock.call_later(5, lambda: fired.append(clock.now()))
    clock.jump(3600)
    assert clock.now() == START + timedelta(hours=1)
    clock.jump(-7200)
    assert clock.now() == START - timedelta(hours=1)
    assert clock.monotonic() == 0
    await clock.advance(4)
    assert fired == []
    await clock.advance(1)
    assert fired == [START - timedelta(hours=1) + timedelta(seconds=5)]


async def test_sleepers_wake_in_order_at_their_time(clock):
    woken = []

    async def sleeper(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((seconds, clock.monotonic()))

    async with asyncio.TaskGroup() as group:
        for seconds in (3, 1, 2, 1.5):
            group.create_task(sleeper(seconds))
        await clock.advance(2)
        assert woken == [(1, 1), (1.5, 1.5), (2, 2)]
        await clock.advance(0.999999)
        assert len(woken) == 3
        await clock.advance(0.000001)
    assert woken[-1] == (3, 3)


async def test_what_a_sleeper_does_is_over_before_the_next_wakes(clock):
    events = []

    async def chain() -> None:
        await clock.sleep(1)
        for _ in range(20):
            await asyncio.sleep(0)
        events.append("first is over")

    async def other() -> None:
        await clock.sleep(1)
        events.append("second wakes")

    async with asyncio.TaskGroup() as group:
        group.create_task(chain())
        group.create_task(other())
        await clock.advance(1)
    assert events == ["first is over", "second wakes"]


async def test_a_sleep_that_follows_a_sleep_ends_in_the_same_advance(clock):
    times = []

    async def ticker() -> None:
        for _ in range(3):
            await clock.sleep(10)
            times.append(clock.monotonic())

    async with asyncio.TaskGroup() as group:
        group.create_task(ticker())
        await clock.advance(35)
    assert times == [10, 20, 30]
    assert clock.monotonic() == 35


@pytest.mark.parametrize("seconds", [0, -1])
async def test_a_sleep_of_nothing_returns_at_once(clock, seconds):
    await asyncio.wait_for(clock.sleep(seconds), timeout=5)
    assert clock.monotonic() == 0


async def test_a_cancelled_sleep_ends_and_its_timer_with_it(clock):
    task = asyncio.create_task(clock.sleep(1))
    await clock.advance(0.5)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await clock.advance(1)


async def test_timers_of_the_same_moment_fire_as_they_were_set(clock):
    fired = []
    for number in range(5):
        clock.call_later(1, lambda number=number: fired.append(number))
    await clock.advance(1)
    assert fired == [0, 1, 2, 3, 4]


async def test_a_timer_fires_once(clock):
    fired = []
    clock.call_later(1, lambda: fired.append(clock.monotonic()))
    await clock.advance(1)
    await clock.advance(10)
    assert fired == [1]


async def test_a_timer_of_the_past_is_due_at_the_next_advance(clock):
    fired = []
    clock.call_later(-1, lambda: fired.append(clock.monotonic()))
    assert fired == []
    await clock.advance(0)
    assert fired == [0]


async def test_a_cancelled_timer_does_not_fire(clock):
    fired = []
    first = clock.call_later(1, lambda: fired.append("first"))
    second = clock.call_later(2, lambda: fired.append("second"))
    clock.call_later(1, second.cancel)
    first.cancel()
    await clock.advance(3)
    assert fired == []
    first.cancel()


async def test_a_timer_may_set_another_for_the_same_advance(clock):
    fired = []
    clock.call_later(1, lambda: clock.call_later(1, lambda: fired.append(clock.monotonic())))
    await clock.advance(2)
    assert fired == [2]
