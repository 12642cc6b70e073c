"""What the log says of an outage of the store."""

import logging

from outlast.outages import Outage
from outlast.testing.faults import AWAY


async def test_a_failure_is_told_at_once_then_seldom_and_its_end_once(clock, caplog):
    outage = Outage(logging.getLogger("outlast"), clock.monotonic, "it fails", "it works again")
    for _ in range(20):
        outage.on_failure("gone")
        await clock.advance(1)
    for _ in range(2):
        outage.on_success()
    assert caplog.messages == [*["it fails, trying again: gone"] * 2, "it works again, after 20 s"]


async def test_an_outage_of_the_store_does_not_fill_the_log_of_a_worker(world, handler, caplog):
    await world.engine(world.method(handler))
    world.store.inject(AWAY, "claim")
    await world.clock.advance(60)
    complaints = [it for it in caplog.messages if it.startswith("no work can be claimed")]
    assert 1 <= len(complaints) <= 5
    world.store.heal()
    await world.clock.advance(10)
    assert sum(it.startswith("work can be claimed again") for it in caplog.messages) == 1
