"""The database's time of day as a process knows it from the answers that it gets."""

from datetime import timedelta

import pytest

from outlast.stores.postgres.clock import DatabaseClock
from outlast.stores.rows import from_micros, to_micros
from outlast.testing.clock import ManualClock

AHEAD = timedelta(minutes=7)
"""How far the database's clock is ahead of the machine's."""
SECOND = timedelta(seconds=1)


class Told:
    """A clock, and a database that tells the time."""

    def __init__(self) -> None:
        self.timer = ManualClock()
        self.clock = DatabaseClock(self.timer)
        self.ahead = AHEAD

    def database(self):
        return self.timer.now() + self.ahead

    async def answer(self, before: float, after: float) -> None:
        """Have the database tell the time so many seconds after it was asked and before now."""
        asked_at = self.timer.monotonic()
        await self.timer.advance(before)
        moment = self.database()
        await self.timer.advance(after)
        assert self.clock.set(to_micros(moment), asked_at) == from_micros(to_micros(moment))

    @property
    def error(self) -> timedelta:
        """How far the clock is ahead of the database's."""
        return self.clock.now() - self.database()


@pytest.fixture
async def told():
    told = Told()
    await told.answer(0, 0)
    assert told.error == timedelta()
    return told


@pytest.mark.parametrize(("before", "after"), [(5, 0), (0, 5), (2, 3)])
async def test_a_late_answer_is_no_jump(told, before, after):
    await told.answer(before, after)
    assert told.error == timedelta()
    await told.timer.advance(10)
    await told.answer(0, 0)
    assert told.error == timedelta()


@pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(hours=-1)])
async def test_a_jump_of_the_databases_clock_is_followed(told, jump):
    told.ahead += jump
    await told.answer(0, 1)
    assert abs(told.error) <= SECOND
    await told.answer(0, 0)
    assert told.error == timedelta()


async def test_the_first_answer_is_believed_as_far_as_it_was_under_way():
    told = Told()
    await told.answer(1, 1)
    assert abs(told.error) <= 2 * SECOND
