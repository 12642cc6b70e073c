"""What a call costs with 1,000 stored operations and with 1,000,000: it is to be about the same.

The two databases are asked in turn, one call each.
"""

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import sql

from benchmarks.load import percentile
from benchmarks.postgres.database import DatabaseServer
from benchmarks.postgres.figures import verdict
from outlast.domain.listing import ListQuery
from outlast.domain.status import Payload
from outlast.domain.transitions import Succeeded
from outlast.engine.clock import SystemClock
from outlast.stores.postgres import PostgresStore, schema, statements

_METHOD = "benchmark/NoOp"
_PARENT = "shelves/7"
_PAGE = 50
_MOST = 1.5
"""How many times the cost with few operations it may be with many."""
_MINUTE = timedelta(minutes=1)
_FILL = """
INSERT INTO outlast.operations (name, parent, method, create_time, principal, request_id,
    request_digest, target, exclusive_key, exclusive_digest, max_attempts, retention,
    retried_from, state, revision, attempt, interruptions, lease_epoch, ready_time, worker,
    update_time, start_time, end_time, expire_time, dead_letter, deleted, metadata_type,
    metadata_value, response_type, response_value)
SELECT 'shelves/' || n %% 10 || '/operations/' || gen_random_uuid(), 'shelves/' || n %% 10,
    %(method)s, now.micros - n, '', '', '', '', '', '', 5, 2592000000000, '',
    CASE WHEN %(pending)s THEN 'PENDING' ELSE 'SUCCEEDED' END, 3, 1, 0, 1,
    CASE WHEN %(pending)s THEN now.micros - n END, '', now.micros, now.micros,
    CASE WHEN NOT %(pending)s THEN now.micros END,
    CASE WHEN NOT %(pending)s THEN now.micros + 2592000000000 END, false, false, '', '',
    CASE WHEN NOT %(pending)s THEN 'google.protobuf.Empty' END,
    CASE WHEN NOT %(pending)s THEN ''::bytea END
FROM generate_series(1, %(count)s) AS n,
    (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS micros) AS now
"""
_FILL_REQUESTS = """
INSERT INTO outlast.requests SELECT id, 'google.protobuf.Empty', '' FROM outlast.operations
ON CONFLICT DO NOTHING
"""
_INDEXES = """
SELECT indexname, indexdef FROM pg_indexes
WHERE schemaname = 'outlast' AND tablename = 'operations' AND indexname <> 'operations_pkey'
"""


async def measure(server: DatabaseServer, *, quick: bool) -> None:
    """Print what calls cost with few and with many operations, and how they are planned."""
    few, many, waiting = (500, 5_000, 1_000) if quick else (1_000, 1_000_000, 100_000)
    calls = 20 if quick else 300
    async with AsyncExitStack() as stack:
        stores: dict[int, tuple[PostgresStore, psycopg.Connection[Any]]] = {}
        for count in (few, many):
            url = stack.enter_context(server.database())
            await schema.prepare(url, SystemClock())
            connection = stack.enter_context(psycopg.connect(url, autocommit=True))
            began = time.monotonic()
            _fill(connection, count, pending=False)
            _fill(connection, calls, pending=True)
            if count == many:
                print(f"\n{many:,} operations were stored in {time.monotonic() - began:.0f} s")
            store = await stack.enter_async_context(PostgresStore.open(url, timer=SystemClock()))
            stores[count] = store, connection
        print(f"Cost of a call, p50 of {calls}, µs")
        print(f"{'stored operations':34}{few:>12,}{many:>12,}{'ratio':>8}")
        for name, make in _CALLS.items():
            small, large = (make(*stores[count]) for count in (few, many))
            await _compare(name, small, large, calls)
        (store, connection), (small_store, small_connection) = stores[many], stores[few]
        _fill(connection, waiting, pending=True)
        _fill(small_connection, calls, pending=True)
        await _compare(
            f"claim and finish, {waiting:,} PENDING",
            _claim_and_finish(small_store, small_connection),
            _claim_and_finish(store, connection),
            calls,
        )
        _print_plans(connection)


def _fill(connection: psycopg.Connection[Any], count: int, *, pending: bool) -> None:
    """Store operations in one statement, without indexes while there are many."""
    values = {"count": count, "pending": pending, "method": _METHOD}
    with connection.transaction():
        indexes = connection.execute(_INDEXES).fetchall() if count > 100_000 else []
        for name, _ in indexes:
            connection.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier("outlast", name)))
        connection.execute(_FILL.encode(), values)
        connection.execute(_FILL_REQUESTS)
        for _, definition in indexes:
            connection.execute(definition.encode())
    connection.execute("VACUUM ANALYZE outlast.operations")
    connection.execute("VACUUM ANALYZE outlast.requests")


async def _compare(
    name: str,
    small: Callable[[], Awaitable[object]],
    large: Callable[[], Awaitable[object]],
    calls: int,
) -> None:
    took: tuple[list[float], list[float]] = [], []
    for _ in range(calls):
        for call, times in zip((small, large), took, strict=True):
            began = time.perf_counter()
            await call()
            times.append((time.perf_counter() - began) * 1e6)
    few, many = (percentile(times, 0.5) for times in took)
    print(f"{name:34}{few:12,.0f}{many:12,.0f}{many / few:8.2f}   {verdict(many / few, _MOST)}")


def _get(
    store: PostgresStore, connection: psycopg.Connection[Any]
) -> Callable[[], Awaitable[object]]:
    query = "SELECT name FROM outlast.operations ORDER BY random() LIMIT 1000"
    names = _for_ever([name for (name,) in connection.execute(query).fetchall()])
    return lambda: store.get(next(names))


def _for_ever(names: list[str]) -> Iterator[str]:
    while True:
        yield from names


def _claim_and_finish(
    store: PostgresStore, connection: psycopg.Connection[Any]
) -> Callable[[], Awaitable[object]]:
    async def call() -> None:
        (claim,) = (await store.claim("benchmark", {_METHOD: 1}, 1, _MINUTE)).claims
        await store.finish(claim.lease, Succeeded(Payload("google.protobuf.Empty")))

    return call


def _first_page(
    store: PostgresStore, connection: psycopg.Connection[Any]
) -> Callable[[], Awaitable[object]]:
    return lambda: store.list_page(ListQuery(_PARENT, _PAGE))


_CALLS = {"get": _get, "claim and finish": _claim_and_finish, "first page of a list": _first_page}


def _print_plans(connection: psycopg.Connection[Any]) -> None:
    """Print how the database reads for each query that a running system makes."""
    print("How the hot queries are planned")
    for name, (query, parameters) in _hot_queries(connection).items():
        cursor = connection.execute(b"EXPLAIN (FORMAT JSON) " + query.encode(), parameters)
        ((plan,),) = cursor.fetchall()
        reads = {_read(node) for node in _nodes(plan[0]["Plan"]) if "Scan" in node["Node Type"]}
        found = sorted(it for it in reads if it)
        met = not any(it.startswith("Seq Scan") for it in found)
        print(f"  {name:20}{', '.join(found)}{'' if met else '   MISSED: reads all rows'}")


def _hot_queries(connection: psycopg.Connection[Any]) -> Mapping[str, tuple[str, Any]]:
    query = "SELECT name, create_time FROM outlast.operations WHERE parent = %s LIMIT 1"
    ((name, created),) = connection.execute(query, [_PARENT]).fetchall()
    page = {"now": created, "limit": _PAGE, "parent": _PARENT, "create_time": created}
    page |= {"name": name}
    take = {"now": created, "lost_by": created, "suspects": 1, "methods": [_METHOD], "free": [64]}
    filters = {"states": False, "method": False, "dead_letter": False, "principal": False}
    return {
        "get": (statements.GET_MANY, [[name]]),
        "load for a write": (statements.LOAD, [[name]]),
        "claim": (statements.CLAIM, take),
        "next ready": (statements.NEXT_READY, take | {"suspects": True}),
        "renew": (statements.RENEW, {"names": [name], "epochs": [1], "until": created}),
        "reap": (statements.REAPABLE, {"now": created, "lost_by": created, "limit": 100}),
        "expire": (statements.FORGET_EXPIRED, [created, 100]),
        "count what waits": (statements.COUNT_PENDING, [10_000]),
        "first page": (statements.list_page(parent=True, after=False, **filters), page),
        "next page": (statements.list_page(parent=True, after=True, **filters), page),
    }


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


def _read(node: dict[str, Any]) -> str:
    """Say how a node reads a table; nothing if it reads none."""
    place = node.get("Index Name") or node.get("Relation Name")
    return f"{node['Node Type']} {place}" if place else ""
