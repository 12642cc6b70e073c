"""Handlers that never stop: what becomes of their slots, and who is told."""

from datetime import timedelta

import pytest

from outlast.testing.faults import AWAY

OTHER = "example.v1.Books/Bind"
LIMITS = {"cancel_limit": timedelta(seconds=60), "cancel_grace": timedelta(seconds=5)}


@pytest.fixture
def alarms(caplog):
    """Return what the log says that somebody should be woken for."""
    return lambda: [it.getMessage() for it in caplog.records if it.levelname == "CRITICAL"]


@pytest.fixture
def stubborn(handler):
    handler.stubborn = True
    return handler


async def test_slots_that_stubborn_handlers_hold_are_missing_and_come_back(
    world, stubborn, new_handler, alarms
):
    other = new_handler()
    methods = world.method(stubborn), world.method(other, name=OTHER)
    engine = await world.engine(*methods, concurrency=4, **LIMITS)
    for name in [await world.begin() for _ in range(3)]:
        await engine.manager.cancel(name)
        await world.clock.advance(60)
        assert await world.state(name) == "CANCELLED"

    names = [await world.begin(OTHER) for _ in range(3)]
    assert (other.active, engine.executor.running) == (1, 4)
    other.let_go.set()
    await world.clock.advance(1)
    assert [await world.state(name) for name in names] == ["SUCCEEDED"] * 3
    assert (other.peak, engine.executor.running) == (1, 3)
    assert alarms() == []

    stubborn.let_go.set()
    other.let_go.clear()
    await world.clock.advance(0)
    names = [await world.begin(OTHER) for _ in range(5)]
    assert (other.active, engine.executor.running) == (4, 4)


@pytest.mark.parametrize("reason", ["cancel", "deadline", "lease"])
async def test_that_every_slot_is_held_by_what_does_not_stop_is_told_once(
    world, stubborn, alarms, reason
):
    engine = await world.engine(world.method(stubborn), concurrency=2, **LIMITS)
    timeout = {"timeout": timedelta(seconds=10)} if reason == "deadline" else {}
    names = [await world.begin(max_attempts=1, **timeout) for _ in range(2)]
    if reason == "lease":
        world.store.inject(AWAY, "renew")
    for name in names if reason == "cancel" else []:
        await engine.manager.cancel(name)
    await world.clock.advance(70)

    assert [alarm.split(";")[0] for alarm in alarms()] == [
        "every slot is held by a handler that does not stop"
    ]
    world.store.heal()
    waiting = await world.begin()
    await world.clock.advance(10)
    assert await world.state(waiting) == "PENDING"
    assert len(alarms()) == 1

    stubborn.let_go.set()
    await world.clock.advance(10)
    assert await world.state(waiting) == "SUCCEEDED"


async def test_that_every_slot_of_a_method_is_held_is_told(world, stubborn, new_handler, alarms):
    other = new_handler()
    other.let_go.set()
    methods = world.method(stubborn, concurrency=1), world.method(other, name=OTHER)
    engine = await world.engine(*methods, concurrency=2, **LIMITS)
    await engine.manager.cancel(await world.begin())
    await world.clock.advance(60)

    (alarm,) = alarms()
    assert alarm.startswith("every slot of example.v1.Books/Print is held")
    assert await world.state(await world.begin()) == "PENDING"
    assert await world.state(await world.begin(OTHER)) == "SUCCEEDED"


async def test_a_handler_that_stops_in_time_after_losing_its_lease_is_not_abandoned(
    world, handler, caplog
):
    await world.engine(world.method(handler), **LIMITS)
    await world.begin()
    world.store.inject(AWAY, "renew")
    await world.clock.advance(70)
    assert handler.cancelled == 1
    assert "abandoned" not in caplog.text
