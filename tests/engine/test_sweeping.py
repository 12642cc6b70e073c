"""What must not run again is ended, and what has expired forgotten, whatever the store does."""

from datetime import timedelta

from outlast.domain.operation import State
from outlast.domain.transitions import DEADLINE_EXCEEDED
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


async def lost(world, **fields):
    """Put an operation into the store that ran for half a minute at most, and whose worker died."""
    name = await world.insert(**fields)
    await world.take()
    return name


async def test_what_was_to_stop_ends_though_nobody_knows_its_method(world):
    name = await lost(world)
    await world.inner.request_cancel(name)
    await world.engine(execute=False)
    await world.clock.advance(60)
    assert await world.state(name) == State.CANCELLED


async def test_what_is_past_its_deadline_ends_though_nobody_knows_its_method(world):
    name = await lost(world, timeout=timedelta(seconds=90))
    await world.engine(execute=False)
    await world.clock.advance(89)
    assert await world.state(name) == State.RUNNING
    await world.clock.advance(31)
    assert (await world.get(name)).error == DEADLINE_EXCEEDED


async def test_nothing_that_runs_is_reaped_when_the_time_of_day_jumps_ahead(world, handler):
    method = world.method(handler)
    await world.engine(method)
    await world.engine(execute=False, store=world.client())
    name = await world.begin(timeout=timedelta(minutes=30))
    await world.clock.advance(25)
    world.clock.jump(3600)
    await world.clock.advance(60)
    assert await world.state(name) == State.RUNNING
    assert handler.cancelled == 0


async def test_an_outage_delays_the_reaper_to_the_next_turn(world):
    name = await lost(world)
    await world.inner.request_cancel(name)
    engine = await world.engine(execute=False)
    await world.clock.advance(29)
    world.store.inject(AWAY, "reap", times=1)
    await world.clock.advance(30)
    assert await world.state(name) == State.RUNNING
    await world.clock.advance(30)
    assert await world.state(name) == State.CANCELLED
    assert not engine.died.done()


async def test_what_waits_for_a_method_that_nobody_here_has_is_told_once(world, handler, caplog):
    for _ in range(3):
        await world.insert("example.v1.Books/Bind")
    await world.engine(world.method(handler))
    await world.clock.advance(600)
    assert caplog.text.count("3 operations of example.v1.Books/Bind are not done") == 1


async def test_nothing_is_told_of_methods_that_are_left_to_others_on_purpose(
    world, handler, caplog
):
    await world.insert("books/Bind")
    methods = world.method(handler), world.method(handler, "books/Bind")
    await world.engine(*methods, taken=[methods[0].name])
    await world.clock.advance(600)
    assert handler.attempts == 0
    assert "books/Bind" not in caplog.text


async def test_a_store_that_is_away_at_the_start_keeps_nothing_from_being_run(world, handler):
    world.store.inject(AWAY, "stats")
    await world.engine(world.method(handler))
    await world.begin()
    assert handler.attempts == 1
