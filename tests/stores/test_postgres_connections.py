"""What the PostgreSQL store does besides its contract: connections, times, schema and hints."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool
from psycopg_pool.base import AttemptWithBackoff

from outlast.domain.errors import (
    ExclusiveConflictError,
    OperationNotFoundError,
    StoreOpenError,
    StoreUnavailableError,
)
from outlast.domain.operation import Operation, State
from outlast.domain.status import Payload
from outlast.engine.clock import SystemClock
from outlast.ports import Change, Changes
from outlast.stores.postgres import PostgresStore, connection, feed, schema
from outlast.stores.postgres.feed import PostgresFeed
from outlast.stores.postgres.store import CONNECTIONS
from outlast.stores.postgres.transaction import Connection
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


LISTENING = "query LIKE 'LISTEN%' OR query = 'SELECT 1'"
FEEDING = f"{LISTENING} OR query LIKE '%pg_notify%' OR query LIKE '%idle_session_timeout%'"
FORGED = """NOTIFY outlast, '["x",[["m","PENDING",0,["good"]]]]'"""


TERMINATE_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND datname = current_database()
"""


async def until_read(store: PostgresStore, name: str) -> Operation:
    """Read an operation, as often as it takes."""
    while True:
        with suppress(StoreUnavailableError):
            return await store.get(name)


async def others_of(session: Connection, test: str) -> set[int]:
    """Return the numbers of the other sessions that a test of pg_stat_activity finds."""
    found = await session.execute(
        "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()"  # type: ignore[arg-type]
        f" AND backend_type = 'client backend' AND datname = current_database() AND ({test})"
    )
    return {pid for (pid,) in await found.fetchall()}


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


async def test_sessions_that_were_ended_while_idle_disturb_no_call(url, store, clock):
    operation = await Driver(store, clock).insert()
    async with AsyncExitStack() as stack:
        for _ in range(CONNECTIONS):
            await stack.enter_async_context(store._database.reading())
    async with await connection.connect(url) as other:
        ended = await others_of(other, "true")
        assert len(ended) >= CONNECTIONS
        await other.execute(TERMINATE_OTHERS)
        while ended & await others_of(other, "true"):
            pass
    for _ in range(2 * CONNECTIONS):
        assert await store.get(operation.name) == operation


async def test_a_database_is_tried_as_often_after_a_long_outage_as_after_a_short_one(
    url, clock, monkeypatch, postgres
):
    monkeypatch.setattr(AttemptWithBackoff, "INITIAL_DELAY", 0.05)
    monkeypatch.setattr(connection, "RECONNECT_TIMEOUT", timedelta(seconds=0.1))
    pauses: list[float] = []
    schedule = AsyncConnectionPool.schedule_task

    async def record(pool: Any, task: Any, delay: float) -> None:
        if "AddConnection" in type(task).__name__:
            pauses.append(delay)
        await schedule(pool, task, delay)

    monkeypatch.setattr(AsyncConnectionPool, "schedule_task", record)
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    async with PostgresStore.open(url, timer=TIMER, clock=clock) as store:
        operation = await Driver(store, clock).insert()
        async with await connection.connect(url) as other:
            postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            await other.execute(TERMINATE_OTHERS)
        try:
            asking = [asyncio.create_task(until_read(store, operation.name)) for _ in range(3)]
            while len(pauses) < 20:
                await TIMER.sleep(0.01)
            assert max(pauses) < 0.12
        finally:
            postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        assert await asyncio.gather(*asking) == [operation] * 3


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


async def test_a_flood_of_garbage_is_heard_once_a_second(url, clock):
    ours = PostgresFeed(url, clock)
    heard: list[Changes] = []
    last = asyncio.Event()

    def hear(changes: Changes) -> None:
        heard.append(changes)
        if changes is not None:
            last.set()

    ours.subscribe(hear)
    ours.start()
    try:
        async with await connection.connect(url) as other:
            while not await others_of(other, LISTENING):
                pass
            for text in ["x", "[" * 3_900, '["x",[["m","PENDING",0,[[]]]]]'] * 50:
                await other.execute("SELECT pg_notify('outlast', %s)", [text])
            await other.execute(FORGED)
            async with asyncio.timeout(20):
                await last.wait()
        good = [Change("good", "m", State.PENDING)]
        assert heard == [None, good]
        await clock.advance(feed.VAGUE_SECONDS)
        assert heard == [None, good, None]
        await clock.advance(feed.VAGUE_SECONDS * 5)
        assert heard == [None, good, None]
    finally:
        await ours.stop()


async def test_what_stands_still_is_replaced(url, store, clock, monkeypatch):
    """The sessions of the feed are stopped: nothing ends, and nothing answers any more."""
    monkeypatch.setattr(feed, "CHECK_SECONDS", 0.05)
    monkeypatch.setattr(feed, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(feed, "LEAVE_SECONDS", 0.1)
    monkeypatch.setattr(feed, "RECONNECT_SECONDS", 0.01)
    ear = Ear(store)
    await ear.until(None)
    async with await connection.connect(url) as other:
        await other.execute("LISTEN outlast")
        while len(stopped := await others_of(other, FEEDING)) < 2:
            pass
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            await Driver(store, clock).insert()
            told = [it.pid async for it in other.notifies(timeout=30, stop_after=1)]
            assert told
            assert not stopped & set(told)
            while not await others_of(other, LISTENING) - stopped:
                pass
            await other.execute(FORGED)
            await ear.until("good")
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("error", [OSError("so"), RuntimeError("so"), TimeoutError()])
async def test_no_error_ends_the_feed(url, store, clock, monkeypatch, error):
    monkeypatch.setattr(feed, "RECONNECT_SECONDS", 0.01)
    connect, left = feed.connect, [error] * 6

    async def fail(*args, **options):
        if left:
            raise left.pop()
        return await connect(*args, **options)

    ear, driver = Ear(store), Driver(store, clock)
    await ear.until(None)
    monkeypatch.setattr(feed, "connect", fail)
    async with await connection.connect(url) as other:
        while left:
            await terminate(url, f"pid <> {other.info.backend_pid}")
            with suppress(StoreUnavailableError):
                await driver.insert()
        while not await others_of(other, LISTENING):
            pass
        ear.heard.clear()
        await other.execute(FORGED)
        await ear.until("good")


async def test_a_database_that_ends_idle_sessions_leaves_those_of_the_feed(url, clock):
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    async with await connection.connect(url) as other:
        await other.execute(f"ALTER DATABASE {name} SET idle_session_timeout = 200".encode())
        async with PostgresStore.open(url, timer=TIMER, clock=clock) as store:
            operation = await Driver(store, clock).insert()
            assert await store.get(operation.name) == operation
            while len(feeding := await others_of(other, FEEDING)) < 2:
                pass
            while await others_of(other, f"NOT ({FEEDING})"):  # what the pool has is cut off
                pass
            assert await others_of(other, FEEDING) == feeding
            assert await store.get(operation.name) == operation


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


def by_environment(url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    return url


def by_url(url: str, _: pytest.MonkeyPatch) -> str:
    return f"{url}&client_encoding=LATIN1&options=-c%20client_encoding%3DLATIN1"


def by_database(url: str, _: pytest.MonkeyPatch) -> str:
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    with psycopg.connect(url, autocommit=True) as session:
        session.execute(f"ALTER DATABASE {name} SET client_encoding = 'LATIN1'".encode())
    return url


@pytest.mark.parametrize("given", [by_environment, by_url, by_database])
async def test_no_setting_has_texts_sent_as_anything_but_utf8(url, clock, monkeypatch, given):
    url = await asyncio.to_thread(given, url, monkeypatch)
    async with PostgresStore.open(url, timer=TIMER, clock=clock) as store:
        driver = Driver(store, clock)
        await driver.insert(exclusive_key="ключ €")
        claim = await driver.claim_one()
        await store.record_step(claim.lease, "é ключ", Payload("s", b"result"))
        assert await store.steps(claim.operation.name) == {"é ключ": Payload("s", b"result")}
        with pytest.raises(ExclusiveConflictError):
            await driver.try_insert(exclusive_key="ключ €")


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
async def test_a_database_that_does_not_keep_every_text_is_refused(postgres, encoding):
    postgres.execute("DROP DATABASE IF EXISTS other_texts")
    postgres.execute(f"CREATE DATABASE other_texts ENCODING '{encoding}' TEMPLATE template0")
    with pytest.raises(StoreOpenError, match=f"keeps texts as {encoding}: .* ENCODING 'UTF8'"):
        async with PostgresStore.open(postgres.url("other_texts"), timer=TIMER):
            pass
    with psycopg.connect(postgres.url("other_texts")) as session:
        assert session.execute("SELECT to_regnamespace('outlast')").fetchone() == (None,)
    postgres.execute("DROP DATABASE other_texts WITH (FORCE)")


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
