"""The time of day that servers go by never goes back."""

from datetime import timedelta

import pytest

from outlast.engine.clock import SteadyClock
from outlast.testing.clock import ManualClock

HOUR = 3600
DAY = 24 * HOUR


@pytest.fixture
def machine() -> ManualClock:
    return ManualClock()


@pytest.fixture
def steady(machine: ManualClock) -> SteadyClock:
    return SteadyClock(machine)


async def test_it_shows_the_time_of_the_other_clock(machine, steady):
    for jump in (0, 1, HOUR):
        machine.jump(jump)
        await machine.advance(2)
        assert steady.now() == machine.now()
        assert steady.monotonic() == machine.monotonic()


async def test_when_the_other_goes_back_it_goes_on_more_slowly_until_that_has_caught_up(
    machine, steady
):
    before = steady.now()
    machine.jump(-9)
    assert steady.now() == before
    await machine.advance(50)
    assert steady.now() == before + timedelta(seconds=45)
    await machine.advance(50)
    assert steady.now() == machine.now() == before + timedelta(seconds=91)


async def test_it_follows_at_once_when_the_other_goes_ahead_again(machine, steady):
    machine.jump(-HOUR)
    steady.now()
    machine.jump(HOUR)
    await machine.advance(1)
    assert steady.now() == machine.now()


async def test_it_never_goes_back_however_often_the_other_does(machine, steady):
    seen = []
    for jump in (-1, HOUR, -2 * HOUR, 1, -1, -HOUR, 5 * HOUR, -1):
        machine.jump(jump)
        for _ in range(3):
            seen.append(steady.now())
            await machine.advance(0.5)
    assert seen == sorted(set(seen))


async def test_it_can_be_told_of_a_later_time_to_go_on_from(machine, steady):
    start = machine.now()
    steady.not_before(start - timedelta(seconds=1))
    assert steady.now() == start
    steady.not_before(start + timedelta(seconds=60))
    await machine.advance(10)
    assert steady.now() == start + timedelta(seconds=69)


async def test_it_believes_the_other_that_goes_back_by_more_than_a_day(machine, steady, caplog):
    machine.jump(100 * DAY)
    steady.now()
    machine.jump(-100 * DAY)
    assert steady.now() == machine.now()
    assert "the time of day went back by 100 days" in caplog.text
    machine.jump(-DAY)
    assert steady.now() == machine.now() + timedelta(days=1)


async def test_it_does_not_go_on_from_a_time_that_is_more_than_a_day_ahead(machine, steady):
    steady.not_before(machine.now() + timedelta(days=1, microseconds=1))
    assert steady.now() == machine.now()


async def test_its_timers_are_those_of_the_other_clock(machine, steady):
    fired = []
    steady.call_later(2, lambda: fired.append(1))
    steady.call_later(2, lambda: fired.append(2)).cancel()
    machine.jump(-HOUR)
    await machine.advance(2)
    assert fired == [1]
    await steady.sleep(0)
