"""What every rule of the state machine needs: a store, a model beside it, and their clock."""

import asyncio
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import datetime
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant

from outlast.domain import transitions
from outlast.domain.operation import Lease, Operation, State
from outlast.ports import OperationStore, QueueStats
from outlast.testing.clock import ManualClock
from outlast.testing.store_model import StoreModel

T = TypeVar("T")

names = st.runner().flatmap(lambda machine: st.sampled_from(machine.names()))
redrivable_names = st.runner().flatmap(lambda machine: st.sampled_from(machine.redrivable_names()))
granted_leases = st.runner().flatmap(lambda machine: st.sampled_from(machine.granted_leases()))


def has_visible(machine: "MachineBase") -> bool:
    """Whether readers see anything."""
    return bool(machine.model.visible(machine.clock.now()))


def has_unfinished(machine: "MachineBase") -> bool:
    """Whether anything is not done."""
    return any(not it.done for it in machine.model.records.values())


def has_redrivable(machine: "MachineBase") -> bool:
    """Whether anything can be redriven."""
    return any(
        it.state in transitions.REDRIVABLE
        for it in machine.model.visible(machine.clock.now()).values()
    )


def has_running(machine: "MachineBase") -> bool:
    """Whether anything runs."""
    return any(it.state is State.RUNNING for it in machine.model.records.values())


def has_expired(machine: "MachineBase") -> bool:
    """Whether anything waits to be swept."""
    return bool(machine.model.expired(machine.clock.now()))


class MachineBase(RuleBasedStateMachine):
    """A store and a model of it, which are compared after every rule."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.model = StoreModel()
        self._inserted: dict[str, Operation] = {}
        self._granted: list[Lease] = []
        self._epochs: dict[str, int] = {}
        self._results: dict[str, Operation] = {}
        self._superseded: dict[str, datetime] = {}
        self._runner = asyncio.Runner()
        self._open = AsyncExitStack()
        self.store = self._run(self._open.enter_async_context(self.open_store(self.clock)))

    def open_store(self, clock: ManualClock) -> AbstractAsyncContextManager[OperationStore]:
        """Open an empty store that goes by a clock."""
        raise NotImplementedError

    def teardown(self) -> None:
        try:
            self._run(self._compare_what_is_owned())
        finally:
            self._run(self._open.aclose())
            self._runner.close()

    def _run(self, action: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(action)

    def names(self) -> list[str]:
        """Return the names there ever were, the visible ones more than once."""
        return [*self._inserted, *[*self.model.visible(self.clock.now())] * 3]

    def redrivable_names(self) -> list[str]:
        """Return the names there ever were, those that can be redriven more than once."""
        visible = self.model.visible(self.clock.now())
        redrivable = [n for n, it in visible.items() if it.state in transitions.REDRIVABLE]
        return [*self._inserted, *redrivable * 10]

    def granted_leases(self) -> list[Lease]:
        """Return the leases there ever were, those that hold more than once."""
        held = [
            Lease(it.name, it.lease_epoch)
            for it in self.model.records.values()
            if it.state is State.RUNNING
        ]
        return [*self._granted, *held * 5]

    # What must always be true.

    @invariant()
    def store_agrees_with_the_model(self) -> None:
        self._run(self._compare_what_is_visible())

    async def _compare_what_is_visible(self) -> None:
        now = self.clock.now()
        seen = await self.store.get_many(list(self._inserted))
        assert seen == self.model.visible(now)
        stats = await self.store.stats()
        assert [it for it in stats if it != QueueStats(it.method)] == self.model.stats(now)
        for name, operation in seen.items():
            assert self._epochs.get(name, 0) <= operation.lease_epoch
            self._epochs[name] = operation.lease_epoch
            if name in self._results:
                assert operation == self._results[name]
            elif operation.done:
                self._results[name] = operation

    async def _compare_what_is_owned(self) -> None:
        for name, operation in self.model.visible(self.clock.now()).items():
            assert await self.store.get(name) == operation
            assert await self.store.attempts(name) == self.model.attempts(operation)
        for name in self._inserted.keys() - self._superseded.keys():
            assert await self.store.steps(name) == self.model.steps.get(name, {})
