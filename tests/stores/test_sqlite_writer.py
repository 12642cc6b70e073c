"""Group commit: what shares a transaction, what a caller hears, and when."""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest

from outlast.domain.errors import (
    ExclusiveConflictError,
    LeaseLostError,
    OperationNotFoundError,
    QueueFullError,
    RequestIdReusedError,
    StoreUnavailableError,
)
from outlast.domain.operation import Lease, Operation, Progress, State
from outlast.domain.status import Payload
from outlast.domain.transitions import Succeeded
from outlast.ports import Changes
from outlast.stores.sqlite import SqliteStore
from outlast.stores.sqlite.transaction import Command, Transaction
from outlast.stores.sqlite.writer import MAX_BATCH
from outlast.testing.clock import ManualClock
from outlast.testing.contract.driver import LEASE, METHOD, RESPONSE, Driver


class Gate:
    """Sees what the writer thread executes, and can keep it from beginning a transaction."""

    def __init__(self, store: SqliteStore) -> None:
        self.commits = 0
        """How many transactions were committed, since the last that waited at the gate."""
        self._writer = store._writer
        self._arrived = threading.Event()
        self._opened = threading.Event()
        self._opened.set()
        store._file.writer.set_trace_callback(self._trace)

    def _trace(self, statement: str) -> None:
        if statement == "COMMIT":
            self.commits += 1
        elif statement == "BEGIN IMMEDIATE" and not self._opened.is_set():
            self.commits = -1
            self._arrived.set()
            self._opened.wait()

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """Let the writer thread wait in a transaction of its own while the block runs."""
        self._arrived.clear()
        self._opened.clear()
        opening = asyncio.create_task(self._writer.run(Nothing()))
        await asyncio.to_thread(self._arrived.wait)
        try:
            yield
        finally:
            self._opened.set()
            await opening

    async def waiting(self, count: int) -> None:
        """Return when so many commands wait."""
        while self._writer._queue.qsize() < count:  # noqa: ASYNC110  # a queue of threads
            await asyncio.sleep(0)

    async def one_batch(self, *calls: Awaitable[Any]) -> list[Any]:
        """Make calls whose commands wait for the writer together; return what they end with."""
        async with self.closed():
            tasks = [asyncio.ensure_future(call) for call in calls]
            await self.waiting(len(tasks))
        return await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(eq=False, slots=True)
class Nothing(Command[None]):
    """Writes nothing."""

    order: ClassVar[int] = 9

    def run(self, transaction: Transaction) -> None:
        pass


@pytest.fixture
async def store(path: Path, clock: ManualClock) -> AsyncIterator[SqliteStore]:
    async with SqliteStore.open(path, clock=clock) as store:
        yield store


@pytest.fixture
def driver(store: SqliteStore, clock: ManualClock) -> Driver:
    return Driver(store, clock)


@pytest.fixture
def gate(store: SqliteStore) -> Gate:
    return Gate(store)


def dump(path: Path) -> list[str]:
    """Return all that is in the file."""
    with closing(sqlite3.connect(path)) as reader:
        return list(reader.iterdump())


# What shares a transaction.


async def test_writes_that_wait_share_a_transaction(driver: Driver, gate: Gate) -> None:
    results = await gate.one_batch(*(driver.insert() for _ in range(200)))
    assert len({operation.name for operation in results}) == 200
    assert gate.commits == 1
    assert len(await driver.names()) == 200


async def test_writes_of_all_kinds_share_a_transaction(
    store: SqliteStore, driver: Driver, gate: Gate
) -> None:
    done, cancelled, reporting, renewed = [await driver.start() for _ in range(4)]
    waiting = await driver.insert(ready_time=driver.clock.now() + timedelta(hours=1))
    hidden = await driver.insert(ready_time=driver.clock.now() + timedelta(hours=1))
    results = await gate.one_batch(
        store.expire(10),
        store.claim("worker-2", {METHOD: 9}, 9, LEASE),
        store.renew([renewed.lease], LEASE * 2),
        store.finish(done.lease, Succeeded(RESPONSE)),
        store.request_cancel(cancelled.operation.name),
        store.request_cancel(waiting.name),
        store.delete(hidden.name),
        store.record_progress(reporting.lease, Progress(1, 2), Payload("m", b"1")),
        store.record_step(reporting.lease, "key", Payload("s", b"2")),
        driver.insert(name="operations/new"),
    )
    assert not [result for result in results if isinstance(result, Exception)]
    assert gate.commits == 1
    claims = results[1]
    assert [claim.operation.name for claim in claims.claims] == ["operations/new"]
    assert await driver.states(
        done.operation.name, cancelled.operation.name, waiting.name, "operations/new"
    ) == [State.SUCCEEDED, State.RUNNING, State.CANCELLED, State.RUNNING]
    assert await store.steps(reporting.operation.name) == {"key": Payload("s", b"2")}
    assert hidden.name not in await driver.names()


async def test_a_transaction_takes_a_bounded_number_of_writes(driver: Driver, gate: Gate) -> None:
    count = 2 * MAX_BATCH + 10
    results = await gate.one_batch(*(driver.insert() for _ in range(count)))
    assert len({operation.name for operation in results}) == count
    assert gate.commits == 3
    assert len(await driver.names()) == count


async def test_a_write_that_nobody_waits_beside_is_not_held_back(
    driver: Driver, gate: Gate
) -> None:
    for number in range(3):
        await driver.insert()
        assert gate.commits == number + 1


def test_commits_are_durable(path: Path, clock: ManualClock) -> None:
    async def run() -> None:
        async with SqliteStore.open(path, clock=clock) as store:
            for connection in (store._file.writer, store._file.reader, store._file.point_reader):
                assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
                assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
                assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)

    asyncio.run(run())


# Several writes of one operation in a transaction.


async def test_an_insert_comes_before_the_writes_that_wait_with_it(
    store: SqliteStore, driver: Driver, gate: Gate
) -> None:
    operation = driver.new()
    cancelled, inserted = await gate.one_batch(
        store.request_cancel(operation.name), driver.try_insert(operation)
    )
    assert inserted.created
    assert cancelled.state is State.CANCELLED
    assert await store.get(operation.name) == cancelled
    assert gate.commits == 1


async def test_one_name_inserted_several_times_at_once_is_kept_once(
    store: SqliteStore, driver: Driver, gate: Gate
) -> None:
    first = driver.new()
    other = driver.new(name=first.name, target="another")
    results = await gate.one_batch(
        driver.try_insert(first), driver.try_insert(other), driver.try_insert(first)
    )
    assert gate.commits == 1
    kept = await store.get(first.name)
    assert [result.operation for result in results] == [kept] * 3
    assert any(result.created for result in results)
    assert results[1].created == (kept.target == "another")


async def test_one_request_id_inserted_several_times_at_once_is_kept_once(
    driver: Driver, gate: Gate
) -> None:
    results = await gate.one_batch(
        *(driver.try_insert(request_id="r", request_digest=b"d") for _ in range(10)),
        driver.try_insert(request_id="r", request_digest=b"other"),
    )
    *same, other = results
    assert [result.created for result in same].count(True) == 1
    assert len({result.operation.name for result in same}) == 1
    assert isinstance(other, RequestIdReusedError)
    assert len(await driver.names()) == 1


async def test_changes_of_one_operation_build_on_one_another(
    store: SqliteStore, driver: Driver, gate: Gate
) -> None:
    claim = await driver.start()
    results = await gate.one_batch(
        *(
            store.record_progress(claim.lease, Progress(number), Payload("m", bytes([number])))
            for number in range(5)
        ),
        store.finish(claim.lease, Succeeded(RESPONSE)),
        store.finish(claim.lease, Succeeded(Payload("late"))),
        store.record_progress(claim.lease, Progress(9), Payload("late")),
    )
    *reports, done, late_end, late_report = results
    revisions = [operation.revision for operation in [claim.operation, *reports, done]]
    assert revisions == list(range(revisions[0], revisions[0] + 7))
    assert isinstance(late_end, LeaseLostError)
    assert isinstance(late_report, LeaseLostError)
    assert await store.get(claim.operation.name) == done
    assert done.response == RESPONSE
    assert done.progress == Progress(4)


async def test_what_is_forgotten_in_a_transaction_is_gone_for_the_rest_of_it(
    path: Path, store: SqliteStore, driver: Driver, gate: Gate
) -> None:
    claim = await driver.start()
    await store.delete(claim.operation.name)
    ended, again, step, renewal, cancelled = await gate.one_batch(
        store.finish(claim.lease, Succeeded(RESPONSE)),
        store.finish(claim.lease, Succeeded(RESPONSE)),
        store.record_step(claim.lease, "key", RESPONSE),
        store.renew([claim.lease], LEASE),
        store.request_cancel(claim.operation.name),
    )
    assert gate.commits == 1
    assert ended.done
    assert isinstance(again, LeaseLostError)
    assert isinstance(step, LeaseLostError)
    assert renewal.lost == {claim.lease}
    assert isinstance(cancelled, OperationNotFoundError)
    rows = [line for line in await asyncio.to_thread(dump, path) if line.startswith("INSERT")]
    assert [row for row in rows if "settings" not in row] == []


# Writes that are refused, and writes that SQLite refuses.


async def test_a_refused_write_writes_nothing_and_harms_no_other(
    path: Path, store: SqliteStore, driver: Driver, gate: Gate
) -> None:
    claim = await driver.start(request_id="r", request_digest=b"d", exclusive_key="k")
    name = claim.operation.name
    stale = Lease(name, claim.lease.epoch - 1)
    await driver.insert(name="operations/waiting", ready_time=driver.clock.now() + LEASE)
    before = await asyncio.to_thread(dump, path)

    def refusals() -> list[Awaitable[Any]]:
        return [
            driver.try_insert(request_id="r", request_digest=b"other"),
            driver.try_insert(exclusive_key="k"),
            driver.try_insert(max_pending=1),
            store.finish(stale, Succeeded(RESPONSE)),
            store.record_progress(stale, Progress(1), RESPONSE),
            store.record_step(stale, "key", RESPONSE),
            store.request_cancel("operations/none"),
            store.delete("operations/none"),
            store.finish(Lease("operations/none", 1), Succeeded(RESPONSE)),
        ]

    expected = [
        RequestIdReusedError, ExclusiveConflictError, QueueFullError, LeaseLostError,
        LeaseLostError, LeaseLostError, OperationNotFoundError, OperationNotFoundError,
        LeaseLostError,
    ]  # fmt: skip
    results = await gate.one_batch(*refusals())
    assert [type(result) for result in results] == expected
    assert await asyncio.to_thread(dump, path) == before

    results = await gate.one_batch(*refusals(), store.finish(claim.lease, Succeeded(RESPONSE)))
    assert [type(result) for result in results] == [*expected, Operation]
    assert gate.commits == 1
    assert (await store.get(name)).done
    assert await store.steps(name) == {}


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        pytest.param({"target": "\ud800"}, UnicodeEncodeError, id="a lone surrogate"),
        pytest.param({"max_attempts": 2**64}, OverflowError, id="an integer over 64 bits"),
        pytest.param({"update_time": datetime(2026, 1, 1)}, TypeError, id="a naive time"),  # noqa: DTZ001
        pytest.param({"parent": None}, sqlite3.IntegrityError, id="what must not be null"),
        pytest.param({"worker": b"x"}, sqlite3.IntegrityError, id="a value of another type"),
        pytest.param({"target": object()}, sqlite3.ProgrammingError, id="no value at all"),
    ],
)
async def test_a_write_that_cannot_be_written_fails_alone(
    fields: dict[str, Any],
    error: type[Exception],
    driver: Driver,
    gate: Gate,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    good = [driver.new() for _ in range(40)]
    bad = driver.new().evolve(**fields)
    inserts = [driver.try_insert(operation) for operation in good]
    inserts.insert(13, driver.try_insert(bad))
    results = await gate.one_batch(*inserts)
    (failed,) = [result for result in results if isinstance(result, Exception)]
    assert results.index(failed) == 13
    assert isinstance(failed, error)
    assert await driver.names() == [operation.name for operation in good]
    assert all(result.created for result in results if result is not failed)
    assert gate.commits < 10
    assert "halves are tried" in caplog.text


async def test_a_change_that_cannot_be_written_fails_alone(
    store: SqliteStore, driver: Driver, gate: Gate
) -> None:
    claims = [await driver.start() for _ in range(9)]
    results = await gate.one_batch(
        *(
            store.record_progress(
                claim.lease, Progress(1), Payload("\ud800" if number == 4 else "fine")
            )
            for number, claim in enumerate(claims)
        ),
        driver.insert(name="operations/new"),
        driver.try_insert(driver.new(name="operations/full"), max_pending=0),
    )
    assert isinstance(results[4], UnicodeEncodeError)
    assert isinstance(results[-1], QueueFullError)
    for number, claim in enumerate(claims):
        kept = await store.get(claim.operation.name)
        assert kept == (claim.operation if number == 4 else results[number])
    assert (await store.get("operations/new")).state is State.PENDING


async def test_a_change_that_raises_fails_alone(
    store: SqliteStore, driver: Driver, gate: Gate
) -> None:
    claim = await driver.start()
    done = await driver.start()
    nonsense: Any = "no outcome"
    failed, ended = await gate.one_batch(
        store.finish(claim.lease, nonsense), store.finish(done.lease, Succeeded(RESPONSE))
    )
    assert isinstance(failed, AssertionError)
    assert ended.done
    assert await store.get(claim.operation.name) == claim.operation


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("UPDATE operations SET target = CAST(x'ff' AS TEXT)", id="no text"),
        pytest.param("DELETE FROM requests", id="no request"),
    ],
)
async def test_a_damaged_record_is_away_and_harms_no_other(
    damage: str, store: SqliteStore, driver: Driver, gate: Gate
) -> None:
    claim = await driver.start()
    damaged = await driver.insert()
    where = "id" if "operations" in damage else "operation"
    await asyncio.to_thread(store._file.writer.execute, f"{damage} WHERE {where} = 2")
    inserted, claims, done = await gate.one_batch(
        driver.insert(),
        store.claim("worker-2", {METHOD: 9}, 9, LEASE),
        store.finish(claim.lease, Succeeded(RESPONSE)),
    )
    assert isinstance(claims, StoreUnavailableError)
    assert "the file is damaged; restore it from a backup" in str(claims)
    assert await store.get(inserted.name) == inserted
    assert await store.get(claim.operation.name) == done
    if where == "id":
        store._cache._records.clear()
        with pytest.raises(StoreUnavailableError, match="damaged; restore it from a backup"):
            await store.get(damaged.name)
        with pytest.raises(StoreUnavailableError, match="damaged; restore it from a backup"):
            await driver.names()


# What callers hear.


async def test_callers_and_listeners_hear_after_the_commit(
    path: Path, store: SqliteStore, driver: Driver, gate: Gate
) -> None:
    heard: list[tuple[str, bool]] = []

    def listen(changes: Changes) -> None:
        assert changes is not None
        with closing(sqlite3.connect(path)) as reader:
            for change in changes:
                row = reader.execute("SELECT 1 FROM operations WHERE name = ?", [change.name])
                heard.append((change.name, row.fetchone() is not None))

    end = store.changes.subscribe(listen)
    async with gate.closed():
        waiting = [asyncio.create_task(driver.insert()) for _ in range(3)]
        assert await driver.names() == []
        assert not any(task.done() for task in waiting)
        assert heard == []
    operations = await asyncio.gather(*waiting)
    await driver.names()
    assert heard == [(operation.name, True) for operation in operations]
    end()
    end()
    await driver.insert()
    assert len(heard) == 3


async def test_a_listener_that_raises_keeps_nobody_from_hearing(
    store: SqliteStore, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []

    def fail(_: Changes) -> None:
        raise RuntimeError("no listener should")

    store.changes.subscribe(fail)
    store.changes.subscribe(lambda changes: heard.extend(it.name for it in changes or ()))
    first, second = await driver.insert(), await driver.insert()
    await driver.names()
    assert heard == [first.name, second.name]
    assert "no listener should" in caplog.text


async def test_a_caller_that_gives_up_harms_no_other_and_nothing_is_written_for_it(
    driver: Driver, gate: Gate
) -> None:
    async with gate.closed():
        tasks = [asyncio.create_task(driver.insert()) for _ in range(10)]
        await gate.waiting(len(tasks))
        for task in tasks[::2]:
            task.cancel()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks[::2])
    assert await driver.names() == sorted(task.result().name for task in tasks[1::2])
    await driver.insert()


def test_a_write_is_durable_when_its_caller_hears_of_it(
    path: Path, clock: ManualClock, start_child: Callable[..., Any]
) -> None:
    child = start_child("insert_and_die", path, 50)
    promised: list[str] = []
    while (said := child.hear()) != "done":
        promised.append(said)
    child.end()
    assert len(promised) == 50

    async def read() -> None:
        async with SqliteStore.open(path, clock=clock) as store:
            assert set(promised) <= set(await Driver(store, clock).names())
            claims = await store.claim("worker", {METHOD: 1000}, 1000, LEASE)
            assert set(promised) <= {claim.operation.name for claim in claims.claims}

    asyncio.run(read())
