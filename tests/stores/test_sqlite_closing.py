"""What becomes of writes when the file fails, and when the store is closed."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from outlast.domain.errors import (
    QueueFullError,
    StoreUnavailableError,
)
from outlast.domain.listing import ListQuery
from outlast.domain.transitions import Succeeded
from outlast.stores.sqlite import SqliteStore
from outlast.stores.sqlite.connection import connect
from outlast.stores.sqlite.generation import Generation
from outlast.stores.sqlite.recent import Recent
from outlast.stores.sqlite.transaction import Backlog, Command, Transaction
from outlast.stores.sqlite.writer import MAX_BATCH, Writer
from outlast.testing.clock import ManualClock
from outlast.testing.contract.driver import LEASE, METHOD, RESPONSE, Driver


@dataclass(eq=False, slots=True)
class Nothing(Command[None]):
    """Writes nothing."""

    order: ClassVar[int] = 9

    def run(self, transaction: Transaction) -> None:
        pass


@dataclass(eq=False, slots=True)
class Blocked(Command[None]):
    """Takes as long as it is not let go."""

    order: ClassVar[int] = 9
    began: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)

    def run(self, transaction: Transaction) -> None:
        self.began.set()
        self.let_go.wait()


@pytest.fixture
async def store(path: Path, clock: ManualClock) -> AsyncIterator[SqliteStore]:
    async with SqliteStore.open(path, clock=clock) as store:
        yield store


@pytest.fixture
def driver(store: SqliteStore, clock: ManualClock) -> Driver:
    return Driver(store, clock)


def open_handles(path: Path) -> list[str]:
    """Return the handles that this process has on a store's files."""
    handles = []
    for handle in Path("/proc/self/fd").iterdir():
        try:
            target = str(handle.readlink())
        except FileNotFoundError:
            continue
        if target.startswith(str(path)):
            handles.append(target)
    return handles


def store_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("outlast-sqlite")}


# When the file fails.


class FailingConnection:
    """A connection that fails when a test wants it to."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.failures: list[tuple[str, bool]] = []
        """Statements that fail, once each, and whether they are executed all the same."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        for failure in self.failures:
            if failure[0] == sql:
                self.failures.remove(failure)
                if failure[1]:
                    self._connection.execute(sql, *parameters)
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
                raise error
        return self._connection.execute(sql, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@pytest.fixture
def failing(store: SqliteStore) -> FailingConnection:
    failing = FailingConnection(store._file.writer)
    writer: Any = store._writer
    writer._connection = failing
    return failing


async def test_a_commit_that_fails_writes_nothing(
    driver: Driver, failing: FailingConnection
) -> None:
    failing.failures = [("COMMIT", False)]
    with pytest.raises(StoreUnavailableError, match="check the disk"):
        await driver.insert()
    assert await driver.names() == []
    operation = await driver.insert()
    assert await driver.names() == [operation.name]


async def test_a_commit_whose_answer_is_lost_can_be_made_again(
    driver: Driver, failing: FailingConnection
) -> None:
    failing.failures = [("COMMIT", True)]
    operation = driver.new(request_id="r")
    with pytest.raises(StoreUnavailableError):
        await driver.try_insert(operation)
    again = await driver.try_insert(operation, max_pending=2)
    assert (again.operation, again.created) == (operation, False)
    await driver.insert(max_pending=2)
    with pytest.raises(QueueFullError):
        await driver.try_insert(max_pending=2)


async def test_a_transaction_that_cannot_be_rolled_back_holds_nothing_up(
    driver: Driver, failing: FailingConnection
) -> None:
    failing.failures = [("COMMIT", False), ("ROLLBACK", False)]
    with pytest.raises(StoreUnavailableError):
        await driver.insert()
    operation = await driver.insert()
    assert await driver.names() == [operation.name]


# Closing.


async def test_closing_finishes_what_was_asked_for(path: Path, clock: ManualClock) -> None:
    async with SqliteStore.open(path, clock=clock) as store:
        driver = Driver(store, clock)
        tasks = [asyncio.create_task(driver.insert()) for _ in range(MAX_BATCH + 50)]
        await asyncio.sleep(0)
        reading = asyncio.create_task(driver.names())
        await asyncio.sleep(0)
    operations = await asyncio.gather(*tasks)
    assert isinstance(await reading, list)
    async with SqliteStore.open(path, clock=clock) as store:
        names = await Driver(store, clock).names()
    assert names == sorted(operation.name for operation in operations)


async def test_closing_leaves_nothing_behind(path: Path, clock: ManualClock) -> None:
    before = store_threads()
    async with SqliteStore.open(path, clock=clock) as store:
        await Driver(store, clock).insert()
        await store.stats()
        assert len(store_threads() - before) == 2
        assert open_handles(path)
    assert store_threads() == before
    assert open_handles(path) == []
    left = await asyncio.to_thread(lambda: {entry.name for entry in path.parent.iterdir()})
    assert left == {path.name, f"{path.name}-generation"}
    assert not [task for task in asyncio.all_tasks() if "sqlite" in task.get_name()]


async def test_closing_does_not_wait_for_another_process(
    path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "outlast.stores.sqlite.connection.connect",
        lambda path, *, busy_timeout_seconds=3600: connect(
            path, busy_timeout_seconds=busy_timeout_seconds
        ),
    )
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        async with SqliteStore.open(path, clock=clock) as store:
            other.execute("BEGIN EXCLUSIVE")
            inserting = asyncio.create_task(Driver(store, clock).insert())
            await asyncio.sleep(0)
        with pytest.raises(StoreUnavailableError, match="locked"):
            await inserting


async def test_the_last_to_close_removes_the_wal(path: Path, clock: ManualClock) -> None:
    wal = Path(f"{path}-wal")
    async with SqliteStore.open(path, clock=clock) as first:
        async with SqliteStore.open(path, clock=clock) as second:
            operation = await Driver(second, clock).insert()
        assert await asyncio.to_thread(wal.exists)
        assert await first.get(operation.name) == operation
    assert not await asyncio.to_thread(wal.exists)


async def test_a_closed_store_is_unavailable(path: Path, clock: ManualClock) -> None:
    async with SqliteStore.open(path, clock=clock) as store:
        driver = Driver(store, clock)
        claim = await driver.start()
        await store.get(claim.operation.name)
    name, lease = claim.operation.name, claim.lease
    calls: list[Awaitable[Any]] = [
        driver.insert(),
        store.get(name),
        store.get_many([name]),
        store.list_page(ListQuery("", 1)),
        store.claim("worker", {METHOD: 1}, 1, LEASE),
        store.renew([lease], LEASE),
        store.record_progress(lease, None, RESPONSE),
        store.record_step(lease, "key", RESPONSE),
        store.steps(name),
        store.finish(lease, Succeeded(RESPONSE)),
        store.request_cancel(name),
        store.delete(name),
        store.expire(1),
        store.attempts(name),
        store.stats(),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailableError, match="closed"):
            await call


async def test_a_store_closes_when_its_user_fails(path: Path, clock: ManualClock) -> None:
    before = store_threads()

    async def use() -> None:
        async with SqliteStore.open(path, clock=clock) as store:
            await Driver(store, clock).insert()
            raise RuntimeError("the user fails")

    with pytest.raises(RuntimeError, match="the user fails"):
        await use()
    assert store_threads() == before
    assert open_handles(path) == []


async def test_a_store_closes_when_cancelled_and_while_the_threads_of_the_loop_are_taken(
    path: Path, clock: ManualClock
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    before = store_threads()
    let_go = threading.Event()
    leaving = asyncio.Event()

    async def use() -> None:
        async with SqliteStore.open(path, clock=clock):
            loop.run_in_executor(None, let_go.wait)
            leaving.set()

    task = asyncio.create_task(use())
    try:
        await leaving.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with ThreadPoolExecutor(1) as joining:
            for thread in threading.enumerate():
                if thread.name.startswith("outlast-store-closer"):
                    await loop.run_in_executor(joining, thread.join)
        assert store_threads() == before
        assert open_handles(path) == []
    finally:
        let_go.set()


async def test_a_writer_may_be_stopped_twice(path: Path, clock: ManualClock) -> None:
    with writing(path, clock) as writer:
        waiting = asyncio.create_task(writer.run(Nothing()))
        await asyncio.sleep(0)
        writer.stop()
        writer.stop()
        await waiting
        with pytest.raises(StoreUnavailableError, match="closed"):
            await writer.run(Nothing())
        for _ in range(2):
            await asyncio.to_thread(writer.join)


def test_a_writer_ends_quietly_when_its_event_loop_is_gone(path: Path, clock: ManualClock) -> None:
    blocked = Blocked()

    async def begin() -> tuple[ExitStack, Writer]:
        stack = ExitStack()
        writer = stack.enter_context(writing(path, clock))
        write = asyncio.create_task(writer.run(blocked))
        await asyncio.to_thread(blocked.began.wait)
        write.cancel()
        return stack, writer

    with asyncio.Runner() as runner:
        stack, writer = runner.run(begin())
    with stack:
        blocked.let_go.set()
        writer.join()


@contextmanager
def writing(path: Path, clock: ManualClock) -> Iterator[Writer]:
    """Give a writer on a file of its own that nothing is in."""
    generation = Generation(path.with_name("generation"))
    with closing(connect(path)) as connection, closing(generation):
        backlog, recent = Backlog(), Recent()
        writer = Writer(
            connection,
            lambda: Transaction(connection, clock.now(), backlog, recent),
            generation,
            0,
            lambda _: None,
        )
        yield writer
        writer.stop()
        writer.join()
