"""How the schema of a SQLite file comes to be, and up to date."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from outlast.domain.errors import StoreOpenError
from outlast.stores.sqlite import SqliteStore, connection
from outlast.testing.clock import ManualClock
from outlast.testing.contract.driver import Driver

APPLICATION_ID = 0x4F75744C


def open_and_close(path: Path, clock: ManualClock) -> None:
    async def run() -> None:
        async with SqliteStore.open(path, clock=clock):
            pass

    asyncio.run(run())


def content_of(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


@pytest.fixture
def migrations() -> list[str]:
    return connection._migrations()


def test_a_store_says_whose_it_is_and_of_which_schema(path: Path, clock: ManualClock) -> None:
    open_and_close(path, clock)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert database.execute("PRAGMA user_version").fetchone() == (len(connection._migrations()),)
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("fresh", [True, False])
async def test_a_migration_that_fails_leaves_nothing(
    fresh: bool,
    path: Path,
    clock: ManualClock,
    migrations: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not fresh:
        await asyncio.to_thread(open_and_close, path, clock)
    before = content_of(path)
    broken = "CREATE TABLE extra (x INTEGER) STRICT;\nINSERT INTO extra VALUES (1);\nNONSENSE;\n"
    monkeypatch.setattr(connection, "_migrations", lambda: [*migrations, broken])
    with pytest.raises(StoreOpenError, match="NONSENSE"):
        await asyncio.to_thread(open_and_close, path, clock)
    assert content_of(path) == before
    monkeypatch.undo()
    async with SqliteStore.open(path, clock=clock) as store:
        await Driver(store, clock).insert()


async def test_a_newer_schema_is_reached_from_an_older_one(
    path: Path, clock: ManualClock, migrations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SqliteStore.open(path, clock=clock) as store:
        operation = await Driver(store, clock).insert()
    added = (
        "-- The last one has no semicolon.\nCREATE TABLE extra (x);\nCREATE INDEX e ON extra (x)"
    )
    monkeypatch.setattr(connection, "_migrations", lambda: [*migrations, added])
    async with SqliteStore.open(path, clock=clock) as store:
        assert await store.get(operation.name) == operation
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (len(migrations) + 1,)
        indexes = database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'e'").fetchall()
        assert len(indexes) == 1


def test_processes_that_open_a_new_file_at_once_share_it(
    tmp_path: Path, start_child: Callable[..., Any]
) -> None:
    children = [start_child("open_stores", tmp_path) for _ in range(3)]
    for child in children:
        assert child.hear() == "ready"
    for number in range(30):
        for child in children:
            child.tell(f"store-{number}.db")
        for child in children:
            assert child.hear() == ["OK", ""]
    for child in children:
        child.end()


def test_switching_a_new_file_to_wal_is_tried_again_when_another_process_is_in_the_way(
    path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = iter(range(3))

    class Contended(sqlite3.Connection):
        def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
            if "journal_mode" in sql and next(refusals, None) is not None:
                error = sqlite3.OperationalError("database is locked")
                error.sqlite_errorcode = sqlite3.SQLITE_BUSY
                raise error
            return super().execute(sql, parameters)

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Contended))
    open_and_close(path, clock)
    assert next(refusals, None) is None
    monkeypatch.undo()
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
