from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import pytest

from outlast.ports import OperationStore
from outlast.stores.memory import MemoryStore
from outlast.testing.clock import ManualClock
from outlast.testing.store_contract import StoreContract
from outlast.testing.store_machine import StoreMachine


class TestMemoryStore(StoreContract):
    @pytest.fixture
    async def store(self, clock: ManualClock) -> AsyncIterator[OperationStore]:
        async with MemoryStore.open(clock=clock) as store:
            yield store


class MemoryStoreMachine(StoreMachine):
    def open_store(self, clock: ManualClock) -> AbstractAsyncContextManager[OperationStore]:
        return MemoryStore.open(clock=clock)


TestMemoryStoreMachine = MemoryStoreMachine.TestCase
