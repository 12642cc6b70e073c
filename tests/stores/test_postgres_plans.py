"""Every hot query of the PostgreSQL store uses its index."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest

from outlast.stores.postgres import schema, statements
from outlast.stores.postgres.arrays import RowStatement
from tests.postgresql import PostgresServer

ROWS = 20_000
NOW = 1_000_000
FILL = f"""
INSERT INTO outlast.operations (name, parent, method, create_time, principal, request_id,
    request_digest, target, exclusive_key, exclusive_digest, max_attempts, retention,
    retried_from, state, revision, attempt, interruptions, lease_epoch, ready_time, worker,
    update_time, deadline, expire_time, cancel_requested_time, dead_letter, deleted,
    metadata_type, metadata_value)
SELECT 'operations/' || n, 'shelves/' || n % 100, 'm' || n % 5, n, '', 'r' || n, '', '', '', '',
    3, 0, CASE WHEN n % 500 = 0 THEN 'operations/' || n - 1 ELSE '' END,
    CASE WHEN n % 20 = 0 THEN 'PENDING' WHEN n % 97 = 0 THEN 'RUNNING' ELSE 'SUCCEEDED' END,
    1, 1, CASE WHEN n % 970 = 0 THEN 2 ELSE 0 END, 1,
    CASE WHEN n % 20 = 0 OR n % 97 = 0 THEN n * 100 END, 'w', n,
    CASE WHEN n % 97 = 0 THEN n * 1000 END,
    CASE WHEN n % 20 <> 0 AND n % 97 <> 0 THEN n * 1000 END,
    CASE WHEN n % 970 = 0 THEN n END, n % 1000 = 1, n % 333 = 0, 't', ''
FROM generate_series(1, {ROWS}) AS n
"""
PAGE: dict[str, Any] = {"now": NOW, "limit": 50, "parent": "shelves/7", "create_time": 9_000}
PAGE |= {"name": "operations/9000", "states": ["PENDING"], "method": "m1"}
TAKE = {"now": NOW, "lost_by": NOW, "suspects": 1, "methods": ["m1", "m2"], "free": [4, 4]}
FILTERS = {"states": False, "method": False, "dead_letter": False, "principal": False}

KINDS: dict[str, Any] = {"bigint": 1, "boolean": False, "bytea": b""}
UPDATE = statements.UPDATE_OPERATIONS
END = statements.UPDATE_UNCHANGED
INSERT = statements.INSERT_WITH_REQUESTS


def nobody(statement: RowStatement) -> Sequence[Any]:
    """Return the parameters of a statement for a row that is not there."""
    return statement.parameters([[-1, *(None for _ in statement.types[1:])]])


NEW = INSERT.parameters(
    [[f"new {it}" if kind == "text" else KINDS[kind] for it, kind in enumerate(INSERT.types)]]
)
PREPARED = """
SELECT name, cardinality(parameter_types) FROM pg_prepared_statements
ORDER BY prepare_time DESC LIMIT 1
"""

HOT_QUERIES: dict[str, tuple[str, Any, set[str]]] = {
    "load": (statements.LOAD, [["operations/7", "operations/8"]], {"operations_name"}),
    "read": (statements.GET_MANY, [["operations/7"]], {"operations_name"}),
    "write": (UPDATE.sql, nobody(UPDATE), {"operations_pkey"}),
    "end": (END.sql, nobody(END), {"operations_pkey"}),
    "insert": (INSERT.sql, [*NEW, 500, 500, 499], {"operations_pending"}),
    "steps": (statements.STEPS, ["operations/7"], {"operations_name", "steps_pkey"}),
    "attempts": (statements.ATTEMPTS, ["operations/7"], {"operations_name", "attempts_pkey"}),
    "request": (statements.BY_REQUEST, ["r7", "m2", "shelves/7", ""], {"operations_request"}),
    "exclusive": (statements.EXCLUSIVE_HOLDER, [b"key"], {"operations_exclusive"}),
    "redrive": (
        statements.REDRIVE,
        {"name": "operations/499", "done": True, "now": NOW},
        {"operations_redriven"},
    ),
    "claim": (
        statements.CLAIM,
        TAKE,
        {"operations_ready", "operations_interrupted", "requests_pkey"},
    ),
    "claim of limited": (
        statements.CLAIM_LIMITED,
        TAKE | {"room": [2, 0]},
        {"operations_ready", "operations_interrupted", "operations_running", "requests_pkey"},
    ),
    "places": (
        statements.PLACES,
        TAKE | {"namespace": 1, "lockable": [3, 0]},
        {"operations_running", "operations_ready"},
    ),
    "next lease": (statements.NEXT_LEASE, TAKE | {"suspects": True}, {"operations_running"}),
    "next ready": (statements.NEXT_READY, TAKE | {"suspects": True}, {"operations_ready"}),
    "renew": (
        statements.RENEW,
        {"names": ["operations/97"], "epochs": [1], "until": NOW},
        {"operations_name", "operations_pkey"},
    ),
    "reap": (
        statements.REAPABLE,
        {"now": NOW, "lost_by": NOW, "limit": 100},
        {"operations_stopping", "operations_overdue"},
    ),
    "expire": (
        statements.FORGET_EXPIRED,
        [NOW, 100],
        {"operations_expired", "operations_pkey"},
    ),
    "pending": (statements.COUNT_PENDING, [500], {"operations_pending"}),
    "pending in a method": (
        statements.COUNT_PENDING_IN_METHOD,
        ["m1", 500],
        {"operations_pending"},
    ),
    "first page": (
        statements.list_page(parent=True, after=False, **FILTERS),
        PAGE,
        {"operations_listed"},
    ),
    "next page": (
        statements.list_page(parent=True, after=True, **FILTERS),
        PAGE,
        {"operations_listed"},
    ),
    "dead letters": (
        statements.list_page(parent=False, after=False, **FILTERS),
        PAGE,
        {"operations_dead"},
    ),
}


@pytest.fixture(scope="module")
def full(postgres: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection to a database with many operations, most of which have ended."""
    url = postgres.new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA outlast")
        for script in schema.migrations():
            connection.execute(script.encode())
        connection.execute(FILL.encode())
        connection.execute(
            "INSERT INTO outlast.requests SELECT id, 't', '' FROM outlast.operations"
        )
        connection.execute("VACUUM ANALYZE outlast.operations, outlast.requests")
        yield connection
    postgres.drop(url)


@pytest.mark.parametrize("query", HOT_QUERIES)
def test_a_hot_query_uses_its_index(full, query):
    sql, parameters, expected = HOT_QUERIES[query]
    cursor = full.execute(b"EXPLAIN (FORMAT JSON) " + sql.encode(), parameters)
    ((plan,),) = cursor.fetchall()
    _require_indexes(plan, expected)


@pytest.mark.parametrize("query", HOT_QUERIES)
def test_the_plan_that_a_session_keeps_of_a_hot_query_uses_its_index(full, query):
    """In the end a prepared statement gets one plan for whatever it is given."""
    sql, parameters, expected = HOT_QUERIES[query]
    with full.transaction(force_rollback=True):
        full.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        full.execute(sql.encode(), parameters, prepare=True)
        ((name, count),) = full.execute(PREPARED)
        unknown = ", ".join(["NULL"] * count)
        ((plan,),) = full.execute(f"EXPLAIN (FORMAT JSON) EXECUTE {name} ({unknown})".encode())
    _require_indexes(plan, expected)


def test_every_index_is_used_by_a_hot_query_or_keeps_something_unique(full):
    used = set().union(*(indexes for _, _, indexes in HOT_QUERIES.values()))
    found = full.execute(
        "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
        " WHERE i.indrelid = 'outlast.operations'::regclass AND NOT i.indisunique"
    )
    assert {name for (name,) in found} <= used


@pytest.mark.parametrize("method", ["m0", "m1"])
def test_what_runs_is_counted_without_meeting_what_waits(full, method):
    """Of m0 a thousand wait, of m1 none."""
    explain = b"EXPLAIN (ANALYZE, FORMAT JSON) "
    parameters = TAKE | {"methods": [method], "free": [4], "room": [0]}
    parameters |= {"namespace": 1, "lockable": [99]}
    for sql, suspects in (
        (statements.PLACES, 1),
        (statements.CLAIM_LIMITED, 1),
        (statements.NEXT_LEASE, True),
    ):
        with full.transaction(force_rollback=True):
            cursor = full.execute(explain + sql.encode(), parameters | {"suspects": suspects})
            ((plan,),) = cursor.fetchall()
        for node in _nodes(plan[0]["Plan"]):
            met = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            assert met * node["Actual Loops"] <= 50, json.dumps(node)


def _require_indexes(plan: list[dict[str, Any]], expected: set[str]) -> None:
    nodes = list(_nodes(plan[0]["Plan"]))
    assert not [node for node in nodes if node["Node Type"] == "Seq Scan"], json.dumps(plan)
    assert {node["Index Name"] for node in nodes if "Index Name" in node} == expected


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)
