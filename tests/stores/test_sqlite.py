from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from outlast.ports import OperationStore
from outlast.stores.sqlite import SqliteStore
from outlast.testing.clock import ManualClock
from outlast.testing.store_contract import StoreContract
from outlast.testing.store_machine import StoreMachine


class TestSqliteStore(StoreContract):
    @pytest.fixture
    async def store(self, clock: ManualClock, tmp_path: Path) -> AsyncIterator[OperationStore]:
        async with SqliteStore.open(tmp_path / "operations.db", clock=clock) as store:
            yield store

    @pytest.fixture
    async def other(
        self, store: OperationStore, clock: ManualClock, tmp_path: Path
    ) -> AsyncIterator[OperationStore]:
        async with SqliteStore.open(tmp_path / "operations.db", clock=clock) as other:
            yield other


class SqliteStoreMachine(StoreMachine):
    @asynccontextmanager
    async def open_store(self, clock: ManualClock) -> AsyncIterator[OperationStore]:
        with TemporaryDirectory() as folder:
            async with SqliteStore.open(Path(folder) / "operations.db", clock=clock) as store:
                yield store


TestSqliteStoreMachine = SqliteStoreMachine.TestCase
