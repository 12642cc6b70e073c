"""Expired operations are swept out, in batches, whatever the store does."""

from datetime import timedelta

from outlast.domain.operation import State
from outlast.testing.faults import AWAY

HOUR = timedelta(hours=1)


async def finished(world, count):
    """Put operations into the store that expire an hour from now."""
    names = [await world.insert(retention=HOUR) for _ in range(count)]
    for name in names:
        await world.inner.request_cancel(name)
    return names


async def kept(world):
    return len(world.inner._records._by_name)


async def test_what_has_expired_is_swept_out_within_the_interval(world):
    await finished(world, 3)
    await world.engine(execute=False, expire_interval=timedelta(seconds=60))
    await world.clock.advance(3599)
    assert await kept(world) == 3
    await world.clock.advance(61)
    assert await kept(world) == 0


async def test_what_has_not_ended_is_kept(world):
    name = await world.insert(retention=HOUR)
    await world.engine(execute=False)
    await world.clock.advance(7200)
    assert await world.state(name) == State.PENDING


async def test_many_are_swept_out_in_batches_in_one_turn(world):
    await finished(world, 1200)
    await world.clock.advance(3600)
    await world.engine(execute=False)
    assert await kept(world) == 0
    assert world.store.calls["expire"] == 3


async def test_the_sweep_asks_once_an_interval_when_there_is_nothing(world):
    await world.engine(execute=False, expire_interval=timedelta(seconds=60))
    await world.clock.advance(599)
    assert world.store.calls["expire"] == 10


async def test_an_outage_delays_the_sweep_to_the_next_turn(world):
    await finished(world, 1)
    await world.clock.advance(3600)
    world.store.inject(AWAY, "expire", times=2)
    engine = await world.engine(execute=False, expire_interval=timedelta(seconds=60))
    await world.clock.advance(60)
    assert await kept(world) == 1
    await world.clock.advance(60)
    assert await kept(world) == 0
    assert not engine.died.done()
