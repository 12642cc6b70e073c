"""SQLite files that another process keeps locked."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from outlast.domain.errors import StoreOpenError, StoreUnavailableError
from outlast.stores.sqlite import SqliteStore, connection
from outlast.testing.clock import ManualClock
from outlast.testing.contract.driver import LEASE, METHOD, Driver


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be another user of the file who is in the middle of a write."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as other:
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let writers wait for a tenth of a second only."""
    connect = connection.connect
    monkeypatch.setattr(
        connection,
        "connect",
        lambda path, *, busy_timeout_seconds=0.1: connect(
            path, busy_timeout_seconds=busy_timeout_seconds
        ),
    )


@pytest.mark.usefixtures("impatient")
async def test_a_file_that_others_keep_locked_is_refused(path: Path, clock: ManualClock) -> None:
    async with SqliteStore.open(path, clock=clock):
        pass
    with locked(path), pytest.raises(StoreOpenError, match="locked; end that process"):
        async with SqliteStore.open(path, clock=clock):
            pass
    async with SqliteStore.open(path, clock=clock):
        pass


@pytest.mark.usefixtures("impatient")
async def test_a_lock_of_others_delays_writes_only(path: Path, clock: ManualClock) -> None:
    async with SqliteStore.open(path, clock=clock) as store:
        driver = Driver(store, clock)
        claim = await driver.start()
        with locked(path):
            with pytest.raises(StoreUnavailableError, match="locked"):
                await driver.insert()
            with pytest.raises(StoreUnavailableError, match="locked"):
                await driver.claim()
            assert await store.get(claim.operation.name) == claim.operation
            assert await driver.names() == [claim.operation.name]
            assert await store.steps(claim.operation.name) == {}
            assert [stats.running for stats in await store.stats()] == [1]
        await driver.insert()
        assert len(await driver.names()) == 2


async def test_a_short_lock_of_others_is_waited_for(path: Path, clock: ManualClock) -> None:
    async with SqliteStore.open(path, clock=clock) as store:
        driver = Driver(store, clock)
        with locked(path):
            waiting = asyncio.create_task(driver.insert())
            await store.stats()
            assert not waiting.done()
        operation = await waiting
        assert await store.get(operation.name) == operation


@pytest.mark.usefixtures("impatient")
async def test_a_file_that_others_keep_for_themselves_is_away_and_comes_back(
    path: Path, clock: ManualClock
) -> None:
    async with SqliteStore.open(path, clock=clock) as store:
        operation = await Driver(store, clock).insert()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreOpenError, match="locked"):
            async with SqliteStore.open(path, clock=clock):
                pass
    async with SqliteStore.open(path, clock=clock) as store:
        assert await store.get(operation.name) == operation


async def test_a_jump_of_the_clock_during_a_lock_of_others_makes_no_lease_seem_lost(
    path: Path, clock: ManualClock
) -> None:
    async with SqliteStore.open(path, clock=clock) as store:
        await Driver(store, clock).start()
        with locked(path):
            claiming = asyncio.create_task(store.claim("worker-2", {METHOD: 5}, 5, LEASE))
            reaping = asyncio.create_task(store.reap(5))
            await store.stats()
            clock.jump(3600)
        assert not (await claiming).claims
        assert await reaping == 0
