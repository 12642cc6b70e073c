"""The PostgreSQL store keeps the contract, on every version that there is."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from outlast.engine.clock import SystemClock
from outlast.ports import OperationStore
from outlast.stores.postgres import PostgresStore
from outlast.testing.clock import ManualClock
from outlast.testing.store_contract import StoreContract
from outlast.testing.store_machine import StoreMachine
from tests.postgresql import PostgresServer


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    """Return the URL of an empty database."""
    url = postgres.new_database()
    yield url
    postgres.drop(url)


class TestPostgresStore(StoreContract):
    @pytest.fixture
    async def store(self, clock: ManualClock, url: str) -> AsyncIterator[OperationStore]:
        async with PostgresStore.open(url, timer=SystemClock(), clock=clock) as store:
            yield store

    @pytest.fixture
    async def other(
        self, store: OperationStore, clock: ManualClock, url: str
    ) -> AsyncIterator[OperationStore]:
        async with PostgresStore.open(url, timer=SystemClock(), clock=clock) as other:
            yield other


def test_no_history_of_calls_makes_the_store_differ_from_the_model(
    postgres: PostgresServer,
) -> None:
    class PostgresStoreMachine(StoreMachine):
        @asynccontextmanager
        async def open_store(self, clock: ManualClock) -> AsyncIterator[OperationStore]:
            url = postgres.new_database()
            try:
                async with PostgresStore.open(url, timer=SystemClock(), clock=clock) as store:
                    yield store
            finally:
                postgres.drop(url)

    PostgresStoreMachine.TestCase().runTest()
