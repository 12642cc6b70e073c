"""Suspects: run one at a time until it is known who kills the process."""

from datetime import timedelta

from outlast.testing.faults import AWAY

LEASE = timedelta(seconds=30)
POLL = timedelta(seconds=1)


async def suspects(world, count, losses=2):
    """Return the names of operations whose worker died so often."""
    names = [await world.insert() for _ in range(count)]
    for _ in range(losses):
        claims = await world.inner.claim("dead", {world.method(None).name: count}, count, LEASE)
        assert len(claims.claims) == count
        await world.clock.advance(LEASE.total_seconds())
    return names


async def test_one_suspect_is_on_trial_at_a_time_and_others_run_beside_it(world, handler):
    names = await suspects(world, 3)
    await world.engine(world.method(handler), lease=LEASE, poll_interval=POLL)
    fresh = [await world.begin() for _ in range(2)]
    await world.clock.advance(29)
    assert handler.names == [names[0], *fresh]


async def test_the_next_suspect_follows_when_the_trial_is_survived(world, handler):
    names = await suspects(world, 3)
    await world.engine(world.method(handler), lease=LEASE, poll_interval=POLL)
    # Survived is a trial of one lease with the renewal after it, and noticed by a poll.
    await world.clock.advance(42)
    assert handler.names == names[:2]
    await world.clock.advance(42)
    assert handler.names == names
    assert handler.active == 3


async def test_a_trial_is_not_over_here_before_the_record_says_so(world, handler):
    """Otherwise who dies next would take the attempt of somebody who has survived."""
    first, second = await suspects(world, 2)
    await world.engine(world.method(handler), lease=LEASE, poll_interval=POLL)
    while len(handler.names) < 2:
        await world.clock.advance(0.5)
    record = await world.get(first)
    assert record.ready_time - LEASE - record.attempt_start_time >= LEASE
    assert (await world.get(second)).attempt == 1


async def test_the_next_suspect_follows_at_once_when_the_first_one_ends(world, handler):
    names = await suspects(world, 3)
    handler.let_go.set()
    await world.engine(
        world.method(handler), lease=LEASE, poll_interval=timedelta(days=1), concurrency=8
    )
    assert handler.names == names
    assert handler.peak == 1


async def test_suspects_that_wait_keep_nobody_busy(world, handler):
    await suspects(world, 2)
    await world.engine(world.method(handler), lease=LEASE, poll_interval=POLL)
    asked = world.store.calls["claim"]
    await world.clock.advance(20)
    assert world.store.calls["claim"] - asked <= 42


async def test_each_worker_has_a_suspect_of_its_own(world, new_handler):
    names = await suspects(world, 3)
    first, second = new_handler(), new_handler()
    await world.engine(world.method(first), store=world.client(), lease=LEASE, poll_interval=POLL)
    await world.engine(world.method(second), store=world.client(), lease=LEASE, poll_interval=POLL)
    await world.clock.advance(20)
    assert first.names + second.names == names[:2]


async def test_a_handler_that_does_not_stop_keeps_no_suspect_waiting(world, handler):
    handler.stubborn = True
    first, second = await suspects(world, 2)
    await world.engine(world.method(handler), lease=LEASE, poll_interval=POLL)
    assert handler.names == [first]
    world.store.inject(AWAY, "renew")
    await world.clock.advance(28)
    world.store.heal()
    await world.clock.advance(15)
    assert handler.cancelled == 1
    assert second in handler.names


async def test_suspects_that_were_innocent_end_with_the_attempts_they_had(world, handler):
    names = await suspects(world, 3)
    handler.let_go.set()
    await world.engine(world.method(handler), lease=LEASE, poll_interval=POLL)
    await world.clock.advance(5)
    ends = [await world.get(name) for name in names]
    assert [(it.state, it.attempt) for it in ends] == [("SUCCEEDED", 1)] * 3
