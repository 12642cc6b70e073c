"""Carrying the operations of one store to another."""

import asyncio
import re
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from outlast.domain.errors import ConfigurationError, OperationNotFoundError, StoreOpenError
from outlast.domain.operation import Operation, Progress, State
from outlast.domain.status import Payload
from outlast.domain.transitions import Cancelled, Failed, Retry, Succeeded
from outlast.engine.clock import SystemClock
from outlast.ports import OperationStore
from outlast.server import migration
from outlast.server.migration import Tally
from outlast.stores import archive
from outlast.stores.addresses import described
from outlast.stores.archive import Archived, Refusal
from outlast.stores.postgres import PostgresStore
from outlast.stores.postgres import archive as postgres
from outlast.stores.postgres.sessions import LOCK
from outlast.stores.sqlite import SqliteStore, connection
from outlast.testing.clock import ManualClock
from outlast.testing.contract.driver import ERROR, RESPONSE, Driver
from tests.postgresql import PostgresServer

SQLITE = "SQLite"
PAIRS = [(SQLITE, "15"), (SQLITE, "18"), (SQLITE, SQLITE), ("18", SQLITE), ("18", "18")]
KINDS = [SQLITE, "18"]
HIDDEN = "operations/hidden"
NewStore = Callable[[str], str]


@pytest.fixture
def new_store(tmp_path: Path, postgres_of: Callable[[str], PostgresServer]) -> Iterator[NewStore]:
    """Return what names a new store: an SQLite file, or a database of a version of PostgreSQL."""
    databases: list[tuple[PostgresServer, str]] = []
    names = (f"{number}.db" for number in range(100))

    def new_store(kind: str) -> str:
        if kind == SQLITE:
            return str(tmp_path / next(names))
        server = postgres_of(kind)
        databases.append((server, server.new_database()))
        return databases[-1][1]

    yield new_store
    for server, url in databases:
        server.drop(url)


def opened(name: str, clock: ManualClock) -> AbstractAsyncContextManager[OperationStore]:
    if "://" in name:
        return PostgresStore.open(name, timer=SystemClock(), clock=clock)
    return SqliteStore.open(name, clock=clock)


@dataclass
class Told:
    """What a migration has reported."""

    batches: int = 0
    refused: dict[str, str] = field(default_factory=dict)

    def __call__(self, tally: Tally, refused: Sequence[Refusal]) -> None:
        self.batches += 1
        self.refused |= {refusal.name: refusal.reason for refusal in refused}


async def migrate(source: str, target: str, told: Told | None = None) -> Tally:
    return await asyncio.to_thread(migration.migrate_store, source, target, told or Told())


async def records_in(name: str) -> list[Archived]:
    """Return all that a store has, hidden operations too."""

    def read() -> list[Archived]:
        with migration._opened(name, "source") as opened:
            return [record for batch in opened.batches() for record in batch.records]

    return await asyncio.to_thread(read)


def content_of(name: str) -> bytes | None:
    """Return what is in a file; None if there is none, or if it is a database elsewhere."""
    return Path(name).read_bytes() if Path(name).exists() else None


async def fill(driver: Driver) -> None:
    """Have an operation of every kind in a store."""
    store, clock = driver.store, driver.clock
    await driver.run(Succeeded(RESPONSE), target="shelves/1", principal="ada")
    await driver.run(Failed(ERROR))
    dead = await driver.run(Failed(ERROR, dead_letter=True), parent="shelves/1")
    await driver.run(Cancelled())
    claim = await driver.start(timeout=timedelta(hours=2))
    await store.record_step(claim.lease, "one", Payload("example.v1.Step", b"\x00\x01"))
    await store.record_step(claim.lease, "t\0o\ue000", Payload("example.v1.Step"))
    await store.finish(claim.lease, Retry(ERROR, timedelta(hours=1)))
    await store.redrive(dead.name, "redriven")
    await driver.claim_one("lost")
    await driver.lose_lease()
    claim = await driver.claim_one("worker-2")
    progress = Progress(1, 4, "printing", "it \0 goes", clock.now() + timedelta(minutes=1))
    await store.record_progress(claim.lease, progress, Payload("example.v1.Metadata", b"m"))
    hidden = await driver.start(name=HIDDEN, request_id="given back")
    await store.record_step(hidden.lease, "one", RESPONSE)
    await store.delete(HIDDEN)
    cancelled = await driver.start(exclusive_key="shelves/1")
    await store.request_cancel(cancelled.operation.name)
    for number in range(4):
        await driver.insert(
            request_id=f"r\0{number}", request_digest=b"d", exclusive_key=f"k{number}"
        )
        await clock.advance(0.000001)


async def seen(store: OperationStore, names: Sequence[str]) -> Mapping[str, object]:
    """Return what readers of a store see of operations."""
    found: dict[str, object] = {}
    for name in names:
        found[name, "steps"] = await store.steps(name)
        try:
            found[name] = await store.get(name)
            found[name, "attempts"] = await store.attempts(name)
        except OperationNotFoundError:
            found[name] = None
    found["stats"] = await store.stats()
    found["list"] = await Driver(store, ManualClock()).names()
    return found


@asynccontextmanager
async def filled(name: str, clock: ManualClock) -> AsyncIterator[Driver]:
    async with opened(name, clock) as store:
        driver = Driver(store, clock)
        await fill(driver)
        yield driver


@pytest.mark.parametrize(("old", "new"), PAIRS)
async def test_everything_arrives_and_the_source_stays_as_it_is(
    old: str, new: str, new_store: NewStore, clock: ManualClock
) -> None:
    source, target = new_store(old), new_store(new)
    async with filled(source, clock) as driver:
        secret = driver.store.secret
    records = await records_in(source)
    names = [record.operation.name for record in records]
    assert {record.operation.state for record in records} == set(State)
    assert [it.operation.name for it in records if it.operation.deleted] == [HIDDEN]
    content = content_of(source)
    async with opened(source, clock) as store:
        before = await seen(store, names)

    tally = await migrate(source, target)

    assert tally == Tally(len(names), secret_kept=True, added=len(names))
    assert tally.complete
    assert await records_in(target) == records == await records_in(source)
    assert content_of(source) == content
    async with opened(target, clock) as store:
        assert await seen(store, names) == before
        assert store.secret == secret


@pytest.mark.parametrize(("old", "new"), PAIRS)
async def test_the_target_goes_on_with_the_work(
    old: str, new: str, new_store: NewStore, clock: ManualClock
) -> None:
    source, target = new_store(old), new_store(new)
    async with opened(source, clock) as store:
        driver = Driver(store, clock)
        running = await driver.start()
        hidden = await driver.start()
        await store.delete(hidden.operation.name)
        waiting = await driver.insert(request_id="r", exclusive_key="k")
    await migrate(source, target)

    async with opened(target, clock) as store:
        driver = Driver(store, clock)
        (claim,) = await driver.claim("worker-2")
        assert claim.operation.name == waiting.name
        assert claim.request.value == waiting.name.encode()
        assert not (await driver.try_insert(request_id="r")).created
        await store.finish(hidden.lease, Succeeded(RESPONSE))
        await driver.lose_lease()
        taken = {claim.operation.name: claim for claim in await driver.claim("worker-2")}
        assert set(taken) == {running.operation.name, waiting.name}
        claim = taken[running.operation.name]
        assert claim.operation.lease_epoch == running.operation.lease_epoch + 1
        assert claim.request == running.request
        await store.finish(claim.lease, Succeeded(RESPONSE))
        first, second = await store.attempts(running.operation.name)
        assert (first.worker, second.worker) == ("worker-1", "worker-2")
        new_one = await driver.insert(name="operations/new")
        assert await store.get(new_one.name) == new_one


@pytest.mark.parametrize("kind", KINDS)
async def test_a_second_run_finds_everything_there(
    kind: str, new_store: NewStore, clock: ManualClock
) -> None:
    source, target = new_store(SQLITE), new_store(kind)
    async with filled(source, clock):
        pass
    first = await migrate(source, target)
    assert await migrate(source, target) == Tally(
        first.total, secret_kept=True, present=first.total
    )


class Interrupted(BaseException):
    """Comes at a moment that nobody chose."""


KILLED = """
import os, signal, sys
from outlast.server import migration
from outlast.stores import archive
from outlast.stores.postgres import archive as postgres
from outlast.stores.sqlite import archive as sqlite

source, target, where, count = sys.argv[1:]
archive.BATCH_OPERATIONS = 3
calls = 0

def killing(function):
    def call(*arguments):
        global calls
        calls += 1
        if calls == int(count):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)
    return call

for tables in (postgres._Tables, sqlite._Tables):
    if where != "report":
        setattr(tables, where, killing(getattr(tables, where)))
migration.migrate_store(source, target, killing(print) if where == "report" else print)
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("where", "count"),
    [("set_secret", 1), ("insert", 1), ("insert_parts", 2), ("report", 3)],
)
async def test_a_run_that_was_killed_is_continued_by_the_next_one(
    kind: str, where: str, count: int, new_store: NewStore, clock: ManualClock
) -> None:
    source, target = new_store(SQLITE), new_store(kind)
    async with filled(source, clock) as driver:
        secret = driver.store.secret
    records = await records_in(source)
    command = [sys.executable, "-c", KILLED, source, target, where, str(count)]
    killed = await asyncio.to_thread(
        subprocess.run, command, check=False, stdout=subprocess.DEVNULL
    )
    assert killed.returncode == -9
    left = await records_in(target)
    assert left == records[: len(left)]

    tally = await migrate(source, target)

    assert tally.complete
    assert (tally.present, tally.added) == (len(left), len(records) - len(left))
    assert len(left) == 3 * (count if where == "report" else count - 1)
    assert await records_in(target) == records == await records_in(source)
    async with opened(target, clock) as store:
        assert store.secret == secret


async def test_large_operations_come_in_batches_of_few(
    new_store: NewStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = new_store(SQLITE), new_store(SQLITE)
    async with opened(source, clock) as store:
        driver = Driver(store, clock)
        for size in (1, 1, 400, 1, 400, 2000):
            claim = await driver.start()
            await store.record_step(claim.lease, "large", Payload("", bytes(size)))
    monkeypatch.setattr(archive, "BATCH_BYTES", 700)
    told = Told()
    assert (await migrate(source, target, told)).complete
    assert told.batches == 3


# What is in use.


@pytest.mark.parametrize("kind", KINDS)
async def test_a_store_that_is_served_is_neither_source_nor_target(
    kind: str, new_store: NewStore, clock: ManualClock
) -> None:
    served, other = new_store(kind), new_store(SQLITE)
    async with opened(other, clock) as store:
        await Driver(store, clock).insert()
    async with opened(served, clock) as store:
        await Driver(store, clock).insert()
        for source, target in ((served, other), (other, served)):
            with pytest.raises(StoreOpenError, match="is open in another process; stop the server"):
                await migrate(source, target)
        assert len(await Driver(store, clock).names()) == 1
    assert (await migrate(served, other)).complete  # both have the same one


async def test_nobody_can_open_a_file_while_it_is_carried(
    new_store: NewStore, clock: ManualClock
) -> None:
    source, target = new_store(SQLITE), new_store(SQLITE)
    async with filled(source, clock):
        pass
    refused: list[str] = []

    def look(*_: object) -> None:
        for name in (source, target):
            with closing(sqlite3.connect(name, timeout=0)) as database:
                with pytest.raises(sqlite3.OperationalError, match="locked"):
                    database.execute("SELECT count(*) FROM operations")
                refused.append(name)

    await asyncio.to_thread(migration.migrate_store, source, target, look)
    assert refused == [source, target]


async def test_a_server_that_starts_on_a_database_meanwhile_waits(
    new_store: NewStore, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = new_store("18"), new_store("18")
    async with filled(source, clock):
        pass
    waiting: list[asyncio.Task[list[str]]] = []
    loop = asyncio.get_running_loop()

    async def names(url: str) -> list[str]:
        async with opened(url, clock) as store:
            return await Driver(store, clock).names()

    async def start() -> None:
        waiting.extend(asyncio.create_task(names(url)) for url in (source, target))

    def look(*_: object) -> None:
        asyncio.run_coroutine_threadsafe(start(), loop).result()
        for url in (source, target):
            told = f"s for {described(url)}: its tables are locked for a migration by pid "
            while told not in caplog.text:
                assert not any(task.done() for task in waiting)

        with psycopg.connect(source, autocommit=True) as database:
            database.execute("SET lock_timeout = '10ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                database.execute("DELETE FROM outlast.operations")

    await asyncio.to_thread(migration.migrate_store, source, target, look)
    first, second = await asyncio.gather(*waiting)
    assert first == second


@pytest.mark.parametrize(
    ("name", "deed"),
    [("outlast", "SELECT"), ("a pooler", "SELECT pg_advisory_lock(%s)")],
    ids=["idle connection", "lock that was left"],
)
async def test_who_has_a_database_is_described(
    name: str, deed: str, new_store: NewStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_LOOKS", 1)
    source, target = new_store(SQLITE), new_store("18")
    async with SqliteStore.open(source, clock=clock):
        pass
    with psycopg.connect(target, application_name=name, autocommit=True) as session:
        session.execute(deed.encode(), [LOCK] if "%s" in deed else None)
        with pytest.raises(StoreOpenError) as refused:
            await migrate(source, target)
        pid = session.info.backend_pid
    who = rf"and have poolers close the connections that they keep: pid {pid} \({name}, idle for "
    assert re.search(rf"{who}[0-9]+ s\)$", refused.value.message)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_store_is_not_carried_to_itself(
    kind: str, new_store: NewStore, clock: ManualClock
) -> None:
    name = new_store(kind)
    async with filled(name, clock):
        pass
    with pytest.raises(ConfigurationError):
        await migrate(name, name)
    same = (
        f"{name}&connect_timeout=3" if "://" in name else f"{Path(name).parent}/./{Path(name).name}"
    )
    with pytest.raises(StoreOpenError, match="is open in another process"):
        await migrate(name, same)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_source_without_operations_of_ours_is_refused_and_not_made(
    kind: str, new_store: NewStore
) -> None:
    source, target = new_store(kind), new_store(SQLITE)
    with pytest.raises(StoreOpenError, match=r"there is no file|has no operations"):
        await migrate(source, target)
    assert content_of(source) is None
    assert content_of(target) is None


def test_an_empty_file_is_no_source_and_stays_empty(new_store: NewStore) -> None:
    source, target = new_store(SQLITE), new_store(SQLITE)
    Path(source).touch()
    with pytest.raises(StoreOpenError, match="is empty"):
        migration.migrate_store(source, target, Told())
    assert content_of(source) == b""
    assert content_of(target) is None


@pytest.mark.parametrize("name", ["memory:", "mysql://it"])
async def test_what_cannot_be_carried_is_a_mistake(name: str, new_store: NewStore) -> None:
    with pytest.raises(ConfigurationError, match="cannot be the source"):
        await migrate(name, new_store(SQLITE))


@pytest.fixture
def migrations() -> list[str]:
    return connection._migrations()


async def test_a_file_of_an_earlier_version_is_carried_and_stays_one(
    new_store: NewStore,
    clock: ManualClock,
    migrations: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, target = new_store(SQLITE), new_store(SQLITE)
    monkeypatch.setattr(connection, "_migrations", lambda: migrations[:2])
    async with opened(source, clock) as store:
        driver = Driver(store, clock)
        claim = await driver.start()
        await store.finish(claim.lease, Retry(ERROR, timedelta()))
    content = content_of(source)
    monkeypatch.undo()

    assert (await migrate(source, target)).complete

    assert content_of(source) == content
    async with opened(target, clock) as store:
        assert len(await store.attempts(claim.operation.name)) == 1


async def test_a_database_of_another_schema_is_no_source(
    new_store: NewStore, clock: ManualClock
) -> None:
    source = new_store("18")
    async with filled(source, clock):
        pass
    with psycopg.connect(source) as database:
        database.execute("UPDATE outlast.settings SET value = '99' WHERE key = 'schema'")
    with pytest.raises(StoreOpenError, match="has the schema of another version"):
        await migrate(source, new_store(SQLITE))


# What does not fit.


@pytest.mark.parametrize("kind", KINDS)
async def test_a_conflict_is_told_and_nothing_is_overwritten(
    kind: str, new_store: NewStore, clock: ManualClock
) -> None:
    source, target = new_store(SQLITE), new_store(kind)

    async def fill(name: str, **others: str) -> Sequence[Operation]:
        async with opened(name, clock) as store:
            driver = Driver(store, clock)
            dead = await driver.run(Failed(ERROR, dead_letter=True), name="operations/dead")
            await store.redrive(dead.name, f"redrive-{others['request']}")
            same_name = await driver.insert(name="operations/same", target=others["request"])
            by_request = await driver.insert(name=others["request"], request_id="r\0")
            by_key = await driver.insert(name=others["key"], exclusive_key="k\0")
            return [same_name, by_request, by_key]

    await fill(source, request="operations/a", key="operations/b")
    kept = await fill(target, request="operations/c", key="operations/d")
    async with opened(source, clock) as store:
        free = await Driver(store, clock).insert(name="operations/free")
    before = await records_in(target)
    told = Told()

    tally = await migrate(source, target, told)

    assert (tally.added, tally.present, tally.refused) == (1, 1, 4)
    assert not tally.complete
    assert not tally.secret_kept
    assert told.refused == {
        "operations/redrive-operations/a": (
            "the target's operations/redrive-operations/c has the same work to redrive"
        ),
        "operations/same": "the target has something else of this name",
        "operations/a": "the target's operations/c has the same request_id",
        "operations/b": "the target's operations/d has the same exclusive key",
    }
    after = await records_in(target)
    assert after[:-1] == before
    assert after[-1].operation == free
    assert {operation.name for operation in kept} < {it.operation.name for it in after}


@pytest.mark.parametrize("change", ["request", "step", "attempt", "record"])
async def test_the_same_name_with_another_content_is_a_conflict(
    change: str, new_store: NewStore, clock: ManualClock
) -> None:
    source, target = new_store(SQLITE), new_store(SQLITE)
    async with opened(source, clock) as store:
        claim = await Driver(store, clock).start()
        await store.record_step(claim.lease, "one", RESPONSE)
        await store.finish(claim.lease, Retry(ERROR, timedelta()))
    await migrate(source, target)
    with closing(sqlite3.connect(target)) as database:
        database.execute(
            {
                "request": "UPDATE requests SET value = x'00'",
                "step": "DELETE FROM steps",
                "attempt": "UPDATE attempts SET worker = 'another'",
                "record": "UPDATE operations SET revision = revision + 1",
            }[change]
        )
        database.commit()
    told = Told()
    assert (await migrate(source, target, told)).refused == 1
    assert told.refused == {claim.operation.name: "the target has something else of this name"}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("UPDATE operations SET error = '{'", "cannot be understood"),
        ("DELETE FROM requests", "its request is missing"),
    ],
)
async def test_what_cannot_be_read_is_told_and_does_not_hold_up_the_others(
    damage: str, reason: str, new_store: NewStore, clock: ManualClock
) -> None:
    source, target = new_store(SQLITE), new_store(SQLITE)
    async with filled(source, clock) as driver:
        broken = await driver.insert()
    with closing(sqlite3.connect(source)) as database:
        where = (
            "name = ?"
            if "UPDATE" in damage
            else "operation = (SELECT id FROM operations WHERE name = ?)"
        )
        database.execute(f"{damage} WHERE {where}", [broken.name])
        database.commit()
    told = Told()

    tally = await migrate(source, target, told)

    assert (tally.added, tally.refused) == (tally.total - 1, 1)
    assert reason in told.refused[broken.name]


async def test_what_the_target_cannot_keep_is_told_and_does_not_hold_up_the_others(
    new_store: NewStore, clock: ManualClock
) -> None:
    source, target = new_store(SQLITE), new_store("18")
    async with filled(source, clock) as driver:
        unfit = await driver.insert(principal="a\0a")
    told = Told()

    tally = await migrate(source, target, told)

    assert (tally.added, tally.refused) == (tally.total - 1, 1)
    assert told.refused[unfit.name].startswith("the target cannot keep it: ")
    assert len(await records_in(target)) == tally.added
