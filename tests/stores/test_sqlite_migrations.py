"""How the schema of a SQLite file comes to be, and up to date."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from outlast.domain.errors import StoreOpenError, StoreUnavailableError
from outlast.domain.transitions import Succeeded
from outlast.stores.sqlite import SqliteStore, connection
from outlast.testing.clock import ManualClock
from outlast.testing.contract.driver import LEASE, METHOD, RESPONSE, Driver

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


def test_a_store_says_whose_it_is_and_of_which_schema(
    path: Path, clock: ManualClock, migrations: list[str]
) -> None:
    open_and_close(path, clock)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert database.execute("PRAGMA user_version").fetchone() == (len(migrations),)
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


@pytest.mark.parametrize(
    "future", ["CREATE TABLE extra (x);", "ALTER TABLE operations RENAME COLUMN state TO phase;"]
)
async def test_a_store_that_a_newer_version_migrates_is_an_outage_for_an_older_one(
    future: str,
    path: Path,
    clock: ManualClock,
    migrations: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with SqliteStore.open(path, clock=clock) as store:
        old = Driver(store, clock)
        name = (await old.insert()).name
        claim = await old.claim_one()
        assert store.peek(name) == claim.operation
        monkeypatch.setattr(connection, "_migrations", lambda: [*migrations, future])
        await asyncio.to_thread(open_and_close, path, clock)
        before = content_of(path)
        lease = claim.lease
        assert store.peek(name) is None
        for call in (
            partial(store.get, name),
            partial(store.get, "operations/absent"),
            partial(store.get_many, [name]),
            partial(store.attempts, name),
            partial(store.steps, name),
            store.stats,
            old.names,
            old.insert,
            old.claim,
            partial(store.renew, [lease], LEASE),
            partial(asyncio.to_thread, store.renew_from_thread, [lease], LEASE),
            partial(store.record_step, lease, "key", RESPONSE),
            partial(store.finish, lease, Succeeded(RESPONSE)),
            partial(store.request_cancel, name),
            partial(store.delete, name),
            partial(store.expire, 10),
        ):
            with pytest.raises(StoreUnavailableError, match="by a newer version of Outlast; rest"):
                await call()
        assert store.peek(name) is None
        assert content_of(path) == before


async def test_a_newer_version_takes_over_what_an_older_one_runs_and_counts_it_once(
    path: Path, clock: ManualClock, migrations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SqliteStore.open(path, clock=clock) as old:
        name = (await Driver(old, clock).insert()).name
        lost = await Driver(old, clock).claim_one()
        added = [*migrations, "CREATE TABLE extra (x);"]
        monkeypatch.setattr(connection, "_migrations", lambda: added)
        async with SqliteStore.open(path, clock=clock) as new:
            assert await new.get(name) == lost.operation
            await clock.advance(2 * LEASE.total_seconds())
            claim = await Driver(new, clock).claim_one()
            with pytest.raises(StoreUnavailableError):
                await old.finish(lost.lease, Succeeded(RESPONSE))
            await new.finish(claim.lease, Succeeded(RESPONSE))
            assert [it.counted for it in await new.attempts(name)] == [False, True]
            assert (await new.get(name)).attempt == 1


async def test_a_write_that_waits_for_a_migration_is_not_made_on_what_it_leaves(
    path: Path, clock: ManualClock
) -> None:
    async with SqliteStore.open(path, clock=clock) as store:
        driver = Driver(store, clock)
        await driver.insert()
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            write = asyncio.create_task(driver.insert())
            await asyncio.sleep(0)  # it is asked for, and waits for the lock from now on
            database.execute("PRAGMA user_version = 9999")
            database.execute("COMMIT")
            with pytest.raises(StoreUnavailableError, match="newer version"):
                await write
            rows = database.execute("SELECT count(*) FROM operations").fetchone()
        assert rows == (1,)


async def test_attempts_of_before_their_epochs_were_kept_are_kept(
    path: Path, clock: ManualClock, migrations: list[str]
) -> None:
    names = make_first_schema(path, clock, migrations[0])
    async with SqliteStore.open(path, clock=clock) as store:
        histories = {
            name: [
                (it.number, it.epoch, it.outcome, it.counted) for it in await store.attempts(name)
            ]
            for name in names
        }
        records = [await store.get(name) for name in names]
        # The next attempt of what was running adds to them.
        (claim,) = await Driver(store, clock).claim()
        attempts = await store.attempts(claim.operation.name)
    assert histories == {
        "operations/running": [
            (1, 1, "FAILED", True),
            (2, 2, "LOST", True),
            (3, 4, "RUNNING", True),
        ],
        # It was given back once, and cancelled while it waited for a retry.
        "operations/cancelled": [(1, 1, "FAILED", True), (2, 3, "FAILED", True)],
        "operations/new": [],
    }
    assert {record.interruptions for record in records} == {0}
    assert [(it.number, it.epoch) for it in attempts] == [(1, 1), (2, 2), (3, 4), (3, 5)]
    assert not attempts[2].counted


def make_first_schema(path: Path, clock: ManualClock, script: str) -> list[str]:
    """Make a file as version 0001 of the schema left it; return the names in it."""
    micros = int(clock.now().timestamp()) * 1_000_000
    operations = [
        ("running", "RUNNING", 3, 4, micros, micros),
        ("cancelled", "CANCELLED", 2, 3, None, micros),
        ("new", "PENDING", 0, 0, micros + 3_600_000_000, None),
    ]
    attempts = [(1, 1, "FAILED"), (1, 2, "LOST"), (2, 1, "FAILED"), (2, 2, "FAILED")]
    with closing(sqlite3.connect(path)) as database:
        database.executescript(script)
        for name, state, attempt, epoch, ready_time, started in operations:
            database.execute(
                """
                INSERT INTO operations (
                    name, parent, method, create_time, principal, request_id, request_digest,
                    target, exclusive_key, max_attempts, retention, retried_from, state, revision,
                    attempt, lease_epoch, ready_time, worker, update_time, start_time,
                    attempt_start_time, dead_letter, deleted, metadata_type, metadata_value
                ) VALUES (
                    ?, '', ?, ?, '', '', x'', '', '', 5, 3600000000, '', ?, 9,
                    ?, ?, ?, 'worker-1', ?, ?, ?, 0, 0, '', x''
                )
                """,
                [
                    f"operations/{name}",
                    METHOD,
                    micros,
                    state,
                    attempt,
                    epoch,
                    ready_time,
                    micros,
                    started,
                    started,
                ],
            )
        database.execute("INSERT INTO requests SELECT id, 'type', x'' FROM operations")
        for operation, number, outcome in attempts:
            database.execute(
                "INSERT INTO attempts VALUES (?, ?, 'worker-1', ?, ?, ?, NULL)",
                [operation, number, micros, micros, outcome],
            )
        database.execute("PRAGMA user_version = 1")
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.commit()
    return [f"operations/{name}" for name, *_ in operations]


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
