"""What the PostgreSQL store does besides its contract: connections, times, schema and hints."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from outlast.domain.errors import (
    ExclusiveConflictError,
    OperationNotFoundError,
    StoreOpenError,
    StoreUnavailableError,
)
from outlast.domain.operation import State
from outlast.domain.status import Payload
from outlast.engine.clock import SystemClock
from outlast.ports import Changes
from outlast.stores.postgres import PostgresStore, connection, feed, schema
from outlast.testing.clock import ManualClock
from outlast.testing.contract.driver import LEASE, Driver
from tests.postgresql import PostgresServer

TIMER = SystemClock()


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    """Return the URL of an empty database."""
    url = postgres.new_database()
    yield url
    postgres.drop(url)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(url: str, clock: ManualClock) -> AsyncIterator[PostgresStore]:
    async with PostgresStore.open(url, timer=TIMER, clock=clock) as store:
        yield store


async def terminate(url: str, test: str) -> int:
    """End the sessions of a database that a test of pg_stat_activity finds; return how many."""
    async with await connection.connect(url) as other:
        found = await other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"  # type: ignore[arg-type]
            f" WHERE pid <> pg_backend_pid() AND datname = current_database() AND {test}"
        )
        return len(await found.fetchall())


class Ear:
    """Keeps what a listener hears."""

    def __init__(self, store: PostgresStore) -> None:
        self.heard: list[Changes] = []
        self._news = asyncio.Event()
        store.changes.subscribe(self._hear)

    def _hear(self, changes: Changes) -> None:
        self.heard.append(changes)
        self._news.set()

    async def until(self, name: str | None) -> None:
        """Return when a change of an operation was heard of, or that there are some."""
        async with asyncio.timeout(20):
            while not any(self._says(changes, name) for changes in self.heard):
                self._news.clear()
                await self._news.wait()

    @staticmethod
    def _says(changes: Changes, name: str | None) -> bool:
        if name is None or changes is None:
            return changes is None and name is None
        return any(change.name == name for change in changes)


# The database and its address.


@pytest.mark.parametrize("password", ["s3cr3t", "a b%40c"])
async def test_no_error_and_no_log_shows_the_password(password, caplog):
    caplog.set_level(logging.DEBUG)
    url = f"postgresql://me:{password.replace(' ', '%20')}@127.0.0.1:1/jobs"
    with pytest.raises(StoreOpenError) as caught:
        async with PostgresStore.open(url, timer=TIMER):
            pass
    chain, error = [], caught.value
    while error is not None:
        chain.append(str(error))
        error = error.__cause__ or error.__context__
    assert not any(password in text for text in [*chain, caplog.text])


async def test_a_server_that_is_too_old_is_told(url, monkeypatch):
    monkeypatch.setattr(schema, "MINIMUM_VERSION", 990000)
    monkeypatch.setattr(schema, "described", lambda _url: "the database")
    with pytest.raises(StoreOpenError, match=r"is PostgreSQL 1[5-8]; 15 or newer is needed"):
        async with PostgresStore.open(url, timer=TIMER):
            pass


async def test_many_nodes_may_make_the_tables_at_once(url):
    secrets = await asyncio.gather(*(schema.prepare(url, TIMER) for _ in range(8)))
    assert len(set(secrets)) == 1
    assert len(secrets[0]) == 32


async def test_a_node_works_on_beside_one_of_the_next_schema(url, store, clock, monkeypatch):
    driver = Driver(store, clock)
    before = await driver.insert()
    newer = [
        *await asyncio.to_thread(schema.migrations),
        "ALTER TABLE outlast.operations ADD COLUMN new_one text",
    ]
    monkeypatch.setattr(schema, "migrations", lambda: newer)
    async with PostgresStore.open(url, timer=TIMER, clock=clock) as next_version:
        after = await Driver(next_version, clock).insert(name="operations/later")
        assert await store.get(after.name) == after
        assert await next_version.get(before.name) == before
        assert len(await driver.claim()) == 2
    monkeypatch.undo()
    async with PostgresStore.open(url, timer=TIMER, clock=clock) as old_version:
        assert (await old_version.get(before.name)).state is State.RUNNING


@pytest.mark.usefixtures("store")
async def test_a_node_that_a_schema_has_left_behind_says_so(url):
    async with await connection.connect(url) as other:
        await other.execute("INSERT INTO outlast.settings VALUES ('oldest_reader', '99')")
    with pytest.raises(StoreOpenError, match="cannot work beside"):
        async with PostgresStore.open(url, timer=TIMER):
            pass


# Time.


async def test_the_clock_of_the_database_decides(url):
    class Wrong(SystemClock):
        def now(self):
            return datetime(2001, 1, 1, tzinfo=UTC)

    async with PostgresStore.open(url, timer=Wrong()) as store:
        now = datetime.now(UTC)
        assert abs(store.clock.now() - now) < timedelta(seconds=10)
        driver = Driver(store, ManualClock())
        await driver.insert(ready_time=now - timedelta(seconds=1))
        await driver.insert(ready_time=now + timedelta(hours=1))
        (claim,) = await driver.claim()
        assert claim.operation.ready_time - now > LEASE - timedelta(seconds=10)


# Connections that break.


async def test_sessions_that_are_ended_are_replaced(url, store, clock):
    driver = Driver(store, clock)
    operation = await driver.insert()
    for _ in range(5):
        assert await terminate(url, "true")
        with_luck = [None]
        while with_luck:
            try:
                assert (await store.get(operation.name)).name == operation.name
                await driver.claim()
                with_luck.clear()
            except StoreUnavailableError:
                pass


async def test_a_transaction_that_meets_another_one_is_run_again(url, store, clock):
    driver = Driver(store, clock)
    names = [(await driver.insert()).name for _ in range(2)]
    async with await connection.connect(url) as other:
        await other.execute("BEGIN")
        lock = "SELECT FROM outlast.operations WHERE name = %s FOR UPDATE"
        await other.execute(lock, [names[1]])
        both = asyncio.gather(*(store.request_cancel(name) for name in names))
        waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        async with await connection.connect(url) as third:
            while (await (await third.execute(waiting)).fetchone()) is None:
                pass
        # Each waits for the other: the database ends one of them.
        try:
            await other.execute(lock, [names[0]])
        except psycopg.errors.DeadlockDetected:
            pass
        finally:
            await other.execute("ROLLBACK")
    assert {it.state for it in await both} == {State.CANCELLED}


async def test_leases_are_renewed_from_another_thread(store, clock):
    claim = await Driver(store, clock).start()
    await store.request_cancel(claim.operation.name)
    renewals = []

    def renew():
        renewals.append(store.renew_from_thread([claim.lease], timedelta(hours=1)))

    thread = threading.Thread(target=renew)
    thread.start()
    await asyncio.to_thread(thread.join)
    assert renewals[0].cancel_requested == {claim.lease}
    assert (await store.get(claim.operation.name)).ready_time == clock.now() + timedelta(hours=1)


# Hints.


async def test_nodes_hear_of_each_others_changes(url, store, clock):
    ear = Ear(store)
    await ear.until(None)
    async with PostgresStore.open(url, timer=TIMER, clock=clock) as other:
        name = (await Driver(other, clock).insert()).name
        await ear.until(name)


async def test_a_listener_that_was_cut_off_says_that_something_may_have_been_missed(
    url, store, clock, monkeypatch
):
    monkeypatch.setattr(feed, "RECONNECT_SECONDS", 0.01)
    ear = Ear(store)
    await ear.until(None)
    ear.heard.clear()
    async with PostgresStore.open(url, timer=TIMER, clock=clock) as other:
        while not await terminate(url, "query LIKE 'LISTEN%'"):
            pass
        await ear.until(None)
        name = (await Driver(other, clock).insert()).name
        await ear.until(name)


async def test_what_does_not_fit_into_a_notification_is_told_in_several(url, store, clock):
    ear = Ear(store)
    await ear.until(None)
    async with PostgresStore.open(url, timer=TIMER, clock=clock) as other:
        driver = Driver(other, clock)
        operations = [driver.new(parent="shelves/" + "x" * 300) for _ in range(60)]
        await asyncio.gather(*(driver.try_insert(operation) for operation in operations))
        for operation in operations:
            await ear.until(operation.name)


# Texts.


@pytest.mark.parametrize("text", ["a\0b", "\ue000", "\ue0000\0", "k" * 100_000, "\U0010ffff"])
async def test_texts_that_the_database_does_not_take_are_kept(store, clock, text):
    driver = Driver(store, clock)
    operation = await driver.insert(target=text, exclusive_key=text, request_id=text[:100])
    assert await store.get(operation.name) == operation
    again = await driver.try_insert(request_id=text[:100])
    assert again.operation == operation
    with pytest.raises(ExclusiveConflictError):
        await driver.try_insert(exclusive_key=text)
    claim = await driver.claim_one()
    assert claim.operation.target == text
    await store.record_step(claim.lease, text[:100], Payload("s", b"result"))
    assert await store.steps(operation.name) == {text[:100]: Payload("s", b"result")}


async def test_a_name_that_cannot_be_kept_is_not_there(store):
    for name in ("operations/\0", "\0"):
        with pytest.raises(OperationNotFoundError):
            await store.get(name)
        with pytest.raises(OperationNotFoundError):
            await store.request_cancel(name)
        assert await store.steps(name) == {}


# Durability.


@pytest.mark.parametrize(("given", "used"), [("off", "on"), ("on", "on"), ("local", "local")])
async def test_a_database_that_commits_carelessly_is_told_not_to(url, given, used):
    async with await connection.connect(url) as other:
        name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
        await other.execute(f"ALTER DATABASE {name} SET synchronous_commit = {given}".encode())
    async with PostgresStore.open(url, timer=TIMER) as store:
        async with store._database.transaction() as transaction:
            shown = await (await transaction.execute("SHOW synchronous_commit")).fetchone()
        assert shown == (used,)


async def test_no_statement_of_a_transaction_is_compiled(url):
    """A claim from a long queue looks so expensive that compiling it would take longest."""
    async with (
        PostgresStore.open(url, timer=TIMER) as store,
        store._database.transaction() as transaction,
    ):
        assert await (await transaction.execute("SHOW jit")).fetchone() == ("off",)


# Reads that share a statement.


async def test_a_record_that_cannot_be_read_disturbs_no_reader_of_others(url, store, clock):
    driver = Driver(store, clock)
    operations = [await driver.insert() for _ in range(5)]
    async with await connection.connect(url) as other:
        damage = "UPDATE outlast.operations SET progress = '[1,2' WHERE name = %s"
        await other.execute(damage, [operations[2].name])
    reads = [store.get(operation.name) for operation in operations]
    answers = await asyncio.gather(*reads, return_exceptions=True)
    assert isinstance(answers.pop(2), ValueError)
    assert answers == [operations[0], operations[1], operations[3], operations[4]]


async def test_who_gives_up_reading_disturbs_nobody(store, clock):
    operation = await Driver(store, clock).insert()
    hasty, patient = (asyncio.create_task(store.get(operation.name)) for _ in range(2))
    await asyncio.sleep(0)
    hasty.cancel()
    assert await patient == operation
