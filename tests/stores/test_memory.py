from collections.abc import AsyncIterator

import pytest

from outlast.ports import OperationStore
from outlast.stores.memory import MemoryStore
from outlast.testing.clock import ManualClock
from outlast.testing.store_contract import StoreContract


class TestMemoryStore(StoreContract):
    @pytest.fixture
    async def store(self, clock: ManualClock) -> AsyncIterator[OperationStore]:
        async with MemoryStore.open(clock=clock) as store:
            yield store
