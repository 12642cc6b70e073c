"""No query reads a whole table, and none costs more for what has ended."""

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from outlast.domain.listing import Conditions, Cursor, ListQuery
from outlast.domain.operation import Progress, State
from outlast.domain.status import Payload
from outlast.domain.transitions import Failed, Retry, Succeeded
from outlast.stores.sqlite import SqliteStore, statements
from outlast.testing.clock import ManualClock
from outlast.testing.contract.driver import (
    ERROR,
    LEASE,
    METHOD,
    OTHER_METHOD,
    RESPONSE,
    Driver,
)

LIST_ALL = {"parent": True, "states": 0, "method": False, "dead_letter": False, "principal": False}
LIST_SOME = {"parent": True, "states": 2, "method": True, "dead_letter": True, "principal": True}
LIST_DEAD = LIST_SOME | {"parent": False}
BY_KEY = "SEARCH operations USING INTEGER PRIMARY KEY (rowid=?)"
BY_NAME = "SEARCH o USING INDEX operations_name (name=?)"
COVERED_BY_NAME = "SEARCH o USING COVERING INDEX operations_name (name=?)"
BY_REQUEST = (
    "SEARCH o USING INDEX operations_request "
    "(request_id=? AND method=? AND parent=? AND principal=?)"
)
LISTED = "SEARCH o USING INDEX operations_listed (parent=?)"
LISTED_AFTER = "SEARCH o USING INDEX operations_listed (parent=? AND create_time<?)"
DEAD = "SCAN o USING INDEX operations_dead"
DEAD_AFTER = "SEARCH o USING INDEX operations_dead (create_time<?)"
READY = "SEARCH operations USING INDEX operations_ready (method=? AND ready_time<?)"
INTERRUPTED = "SEARCH operations USING INDEX operations_interrupted (method=? AND ready_time<?)"
RUNNING = "SEARCH operations USING COVERING INDEX operations_running (method=?)"
LOST = "SEARCH operations USING INDEX operations_running (method=? AND ready_time<?)"
NEXT_LEASE = "SEARCH operations USING INDEX operations_running (method=?)"
NEXT = "SEARCH operations USING INDEX operations_ready (method=? AND ready_time>?)"
STOPPING = "SEARCH operations USING INDEX operations_stopping (ready_time<?)"
OVERDUE = "SEARCH operations USING INDEX operations_overdue (deadline<?)"
NEXT_OF_ALL = "SEARCH operations USING COVERING INDEX operations_ready (method=? AND ready_time>?)"

HOT_QUERIES = {
    "version": (statements.VERSION, "SEARCH operations USING INDEX operations_name (name=?)"),
    "point read": (statements.POINT_READ, BY_NAME),
    "several": (statements.select_by_name(8), BY_NAME),
    "steps": (statements.STEPS, COVERED_BY_NAME),
    "attempts": (statements.ATTEMPTS, COVERED_BY_NAME),
    "request": (
        statements.BY_REQUEST,
        BY_REQUEST,
    ),
    "exclusive": (
        statements.EXCLUSIVE_HOLDER,
        "SEARCH operations USING INDEX operations_exclusive (exclusive_key=?)",
    ),
    "redrive": (
        statements.REDRIVE,
        "SEARCH o USING INDEX operations_redriven (retried_from=?)",
    ),
    "ready, one method": (statements.select_ready(1, suspects=False), READY),
    "ready, five methods": (statements.select_ready(5, suspects=True), READY),
    "ready, suspects": (statements.select_ready(1, suspects=True), INTERRUPTED),
    "next ready, one method": (statements.next_ready(1, suspects=False), NEXT),
    "next ready, five methods": (statements.next_ready(5, suspects=True), NEXT_OF_ALL),
    "running": (statements.COUNT_RUNNING, RUNNING),
    "ready of limited, waiting": (statements.SELECT_READY_OF_LIMITED, READY),
    "ready of limited, suspects": (statements.SELECT_READY_OF_LIMITED, INTERRUPTED),
    "ready of limited, lost": (statements.SELECT_READY_OF_LIMITED, LOST),
    "next lease": (statements.NEXT_LEASE, NEXT_LEASE),
    "claimed": (
        statements.select_claimed(8),
        "SEARCH o USING INTEGER PRIMARY KEY (rowid=?)",
    ),
    "update": (statements.update_operations(8), BY_KEY),
    "renew": (
        statements.renew_leases(8),
        "SEARCH operations USING INDEX operations_name (name=?)",
    ),
    "hide": (statements.HIDE, BY_KEY),
    "forget": (statements.FORGET, BY_KEY),
    "expire": (
        statements.FORGET_EXPIRED,
        "SEARCH operations USING COVERING INDEX operations_expired (expire_time<?)",
    ),
    "reap, stopping": (statements.REAPABLE, STOPPING),
    "reap, overdue": (statements.REAPABLE, OVERDUE),
    "pending": (
        statements.COUNT_PENDING,
        "SCAN operations USING COVERING INDEX operations_ready",
    ),
    "first page": (statements.list_page(**LIST_ALL, after=False), LISTED),
    "next page": (statements.list_page(**LIST_ALL, after=True), LISTED_AFTER),
    "first page, filtered": (statements.list_page(**LIST_SOME, after=False), LISTED),
    "next page, filtered": (statements.list_page(**LIST_SOME, after=True), LISTED_AFTER),
    "first page, dead": (statements.list_page(**LIST_DEAD, after=False), DEAD),
    "next page, dead": (statements.list_page(**LIST_DEAD, after=True), DEAD_AFTER),
}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with 2,000 operations, of which some have ended."""
    path = tmp_path_factory.mktemp("plans") / "full.db"
    asyncio.run(fill(path))
    return path


async def fill(path: Path) -> None:
    clock = ManualClock()
    async with SqliteStore.open(path, clock=clock) as store:
        driver = Driver(store, clock)
        inserts = (
            driver.insert(
                method=(METHOD, OTHER_METHOD)[number % 2],
                request_id=f"r{number}",
                exclusive_key=f"k{number}",
                principal=f"p{number % 7}",
            )
            for number in range(2000)
        )
        await asyncio.gather(*inserts)
        claims = await driver.claim(limit=300)
        await asyncio.gather(*(store.finish(it.lease, Succeeded(RESPONSE)) for it in claims))
        await driver.claim(limit=100, methods=(OTHER_METHOD,))


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as connection:
        yield connection


def plan(connection: sqlite3.Connection, sql: str) -> list[str]:
    """Return how SQLite goes about a query."""
    parameters = [None] * sql.count("?") or dict.fromkeys(re.findall(r":(\w+)", sql))
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)]


def reads_all(step: str) -> bool:
    """Whether a step reads a whole table, and not just what is not done or a dead letter."""
    table = re.match(r"SCAN (operations|o|requests|r|steps|s|attempts|a)\b", step)
    return table is not None and not re.search(r"INDEX operations_(ready|dead)\b", step)


@pytest.mark.parametrize("query", HOT_QUERIES)
def test_a_hot_query_uses_its_index(query: str, full: Path) -> None:
    sql, expected = HOT_QUERIES[query]
    with reading(full) as connection:
        found = plan(connection, sql)
    assert expected in found
    assert not [step for step in found if reads_all(step)]


@pytest.mark.parametrize(
    "query",
    [
        "ready, one method",
        "first page",
        "next page",
        "first page, dead",
        "next page, dead",
        "expire",
    ],
)
def test_what_is_cut_off_is_not_sorted_first(query: str, full: Path) -> None:
    sql, _ = HOT_QUERIES[query]
    with reading(full) as connection:
        found = plan(connection, sql)
    # What is ready is merged from all methods: at most as many rows as are asked for.
    sorts = [step for step in found if "TEMP B-TREE" in step]
    assert len(sorts) == ("ready" in query)


async def test_nothing_that_a_store_does_reads_a_whole_table(
    path: Path, clock: ManualClock
) -> None:
    async with SqliteStore.open(path, clock=clock) as store:
        executed: set[str] = set()
        for connection in (store._file.writer, store._file.reader, store._file.point_reader):
            connection.set_trace_callback(executed.add)
        await do_everything(store, clock)
        for connection in (store._file.writer, store._file.reader, store._file.point_reader):
            connection.set_trace_callback(None)
    queries = [
        sql for sql in executed if sql.split()[0] in {"SELECT", "UPDATE", "DELETE", "INSERT"}
    ]
    assert len(queries) > 30
    with reading(path) as connection:
        for sql in queries:
            plan_of_query = connection.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall()
            assert not [step for *_, step in plan_of_query if reads_all(step)], sql


async def do_everything(store: SqliteStore, clock: ManualClock) -> None:
    driver = Driver(store, clock)
    first = await driver.insert(
        request_id="r", request_digest=b"d", exclusive_key="k", max_pending=10
    )
    assert not (await driver.try_insert(request_id="r", request_digest=b"d")).created
    await asyncio.gather(driver.try_insert(exclusive_key="k"), return_exceptions=True)
    claim = await driver.claim_one()
    await store.renew([claim.lease], LEASE)
    await store.record_progress(claim.lease, Progress(1), Payload("m"))
    await store.record_step(claim.lease, "key", RESPONSE)
    await store.finish(claim.lease, Retry(ERROR, timedelta()))
    again = await driver.claim_one()
    await store.delete(again.operation.name)
    await store.finish(again.lease, Succeeded(RESPONSE))
    failed = await driver.run(Failed(ERROR, dead_letter=True))
    await store.redrive(failed.name, "again", again=False, max_pending=10)
    for _ in range(2):
        await store.get(failed.name)
    await store.get_many([first.name, failed.name])
    await store.steps(failed.name)
    await store.attempts(failed.name)
    await store.stats()
    for conditions in (Conditions(), Conditions(frozenset(State), METHOD, dead_letter=True)):
        for after in (None, Cursor.at(failed)):
            parents = [""] if conditions.dead_letter is None else ["", None]
            for parent in parents:
                await store.list_page(ListQuery(parent, 10, after, conditions, principal=""))
    await clock.advance(3600)
    assert await store.expire(10) == 1


# What a query costs, in steps of SQLite's virtual machine, which are the same every time.


class Meter:
    """Counts what the connections of a store do."""

    def __init__(self, store: SqliteStore) -> None:
        self.steps = 0
        for connection in (store._file.writer, store._file.reader, store._file.point_reader):
            connection.set_progress_handler(self._count, 1)

    def _count(self) -> int:
        self.steps += 1
        return 0


async def cost_of_everything(path: Path, clock: ManualClock, ended: int) -> dict[str, int]:
    """Return the costs of what is done most, in a store where so many operations have ended."""
    async with SqliteStore.open(path, clock=clock) as store:
        driver = Driver(store, clock)
        await asyncio.gather(*(driver.insert() for _ in range(ended)))
        finished = [
            store.finish(it.lease, Succeeded(RESPONSE)) for it in await driver.claim(limit=ended)
        ]
        await asyncio.gather(*finished)
        await clock.advance(1)
        operations = [await driver.insert(request_id=f"r{number}") for number in range(9)]
        meter = Meter(store)
        costs: dict[str, int] = {}
        last = 0
        claim, *_ = await driver.claim(limit=1)
        costs["claim"], last = meter.steps - last, meter.steps
        await store.renew([claim.lease], LEASE)
        costs["renew"], last = meter.steps - last, meter.steps
        await store.record_progress(claim.lease, Progress(1), RESPONSE)
        costs["progress"], last = meter.steps - last, meter.steps
        await store.finish(claim.lease, Succeeded(RESPONSE))
        costs["finish"], last = meter.steps - last, meter.steps
        await driver.insert(name="operations/new", max_pending=100)
        costs["insert"], last = meter.steps - last, meter.steps
        await driver.try_insert(name="operations/same", request_id="r5")
        costs["insert again"], last = meter.steps - last, meter.steps
        store._cache._records.clear()
        for read in ("get", "get again"):
            await store.get(operations[4].name)
            costs[read], last = meter.steps - last, meter.steps
        await driver.names(limit=5)
        costs["list"], last = meter.steps - last, meter.steps
        await store.expire(10)
        costs["expire"], last = meter.steps - last, meter.steps
        return costs


async def test_what_has_ended_costs_nothing(tmp_path: Path) -> None:
    few = await cost_of_everything(tmp_path / "few.db", ManualClock(), 1)
    many = await cost_of_everything(tmp_path / "many.db", ManualClock(), 300)
    assert many == few
    assert all(few.values())


@pytest.fixture
async def store(path: Path, clock: ManualClock) -> AsyncIterator[SqliteStore]:
    async with SqliteStore.open(path, clock=clock) as store:
        yield store


async def test_a_full_queue_is_counted_no_further_than_its_limit(
    store: SqliteStore, clock: ManualClock
) -> None:
    driver = Driver(store, clock)
    await asyncio.gather(*(driver.insert() for _ in range(300)))
    meter = Meter(store)
    costs = []
    for limit in (5, 5, 300):
        before = meter.steps
        await asyncio.gather(driver.try_insert(max_pending=limit), return_exceptions=True)
        costs.append(meter.steps - before)
    assert costs[0] == costs[1] < costs[2] / 5


async def test_what_is_held_back_by_a_limit_costs_nothing(
    store: SqliteStore, clock: ManualClock
) -> None:
    driver = Driver(store, clock)
    await asyncio.gather(*(driver.insert() for _ in range(4)))
    await driver.claim(limit=3)
    meter = Meter(store)
    costs = []
    for _ in range(3):
        before = meter.steps
        claims = await store.claim("worker-2", {METHOD: 5}, 5, LEASE, max_running={METHOD: 3})
        costs.append(meter.steps - before)
        assert claims.held_back == {METHOD}
        await asyncio.gather(*(driver.insert() for _ in range(200)))
    assert len(set(costs)) == 1
