"""The store that fails on demand is a store, and fails as it was told."""

import pytest

from outlast.domain.errors import OperationNotFoundError, StoreUnavailableError
from outlast.ports import OperationStore
from outlast.stores.memory import MemoryStore
from outlast.testing.clock import ManualClock
from outlast.testing.faults import ANSWER_LOST, AWAY, NO_FAULT, Fault, FaultyStore, Hints
from outlast.testing.store_contract import StoreContract


class TestFaultyStoreWithoutFaults(StoreContract):
    @pytest.fixture
    def store(self, clock: ManualClock) -> OperationStore:
        return FaultyStore(MemoryStore(clock), clock)


async def test_a_call_that_fails_before_does_nothing(world):
    name = await world.insert()
    world.store.inject(AWAY)
    with pytest.raises(StoreUnavailableError):
        await world.store.delete(name)
    assert await world.state(name) == "PENDING"


async def test_a_call_that_fails_after_has_done_its_work(world):
    name = await world.insert()
    world.store.inject(ANSWER_LOST)
    with pytest.raises(StoreUnavailableError):
        await world.store.delete(name)
    with pytest.raises(OperationNotFoundError):
        await world.get(name)


async def test_a_call_is_delayed_by_the_clock_before_and_after(world):
    name = await world.insert()
    world.store.inject(Fault(delay_before=2, delay_after=3))
    await world.in_time(world.store.get(name), 5)
    assert world.clock.monotonic() == 5


async def test_a_fault_befalls_the_named_methods_so_many_times(world):
    name = await world.insert()
    world.store.inject(AWAY, "get", times=2)
    await world.store.steps(name)
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            await world.store.get(name)
    await world.store.get(name)
    assert world.store.calls == {"get": 3, "steps": 1}


async def test_a_method_that_a_store_does_not_have_is_refused(world):
    with pytest.raises(ValueError, match="fetch"):
        world.store.inject(AWAY, "fetch")


async def test_a_plan_decides_about_calls_without_an_injected_fault(world):
    name = await world.insert()
    world.store.plan = lambda method: AWAY if method == "get" else NO_FAULT
    await world.store.steps(name)
    with pytest.raises(StoreUnavailableError):
        await world.store.get(name)
    world.store.inject(NO_FAULT, times=1)
    await world.store.get(name)


async def test_healing_takes_back_faults_and_worsened_hints(world):
    name = await world.insert()
    world.store.inject(AWAY)
    world.store.changes.hints = Hints.LOST
    world.store.heal()
    heard = []
    world.store.changes.subscribe(heard.append)
    await world.store.request_cancel(name)
    assert len(heard) == 1


@pytest.mark.parametrize(
    ("hints", "expected"),
    [(Hints.PASSED, "record"), (Hints.BARE, "name"), (Hints.VAGUE, None), (Hints.LOST, "nothing")],
)
async def test_hints_are_worsened_as_told(world, hints, expected):
    name = await world.insert()
    heard = []
    unsubscribe = world.store.changes.subscribe(heard.append)
    world.store.changes.hints = hints
    operation = await world.inner.request_cancel(name)
    unsubscribe()
    await world.insert()
    match expected:
        case "record":
            assert [change.record for (change,) in heard] == [operation]
        case "name":
            assert [(change.name, change.record) for (change,) in heard] == [(name, None)]
        case "nothing":
            assert heard == []
        case None:
            assert heard == [None]
