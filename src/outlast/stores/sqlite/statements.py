"""Statements over many rows at once.

A statement hands the interpreter over to other threads and takes it back, which
on a busy loop costs more than the statement: so rows are written by the dozen.
The numbers of rows are powers of two, so that few statements need preparing.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Any, TypeVar

from outlast.domain.trial import SUSPECT_FROM
from outlast.stores.rows import CHANGING_COLUMNS, COLUMNS, Row

T = TypeVar("T")

MAX_ROWS = 64

SELECT_COLUMNS = ", ".join(f"o.{column}" for column in COLUMNS)

_SUSPECT = (
    f"(interruptions + (state = 'RUNNING') >= {SUSPECT_FROM} AND cancel_requested_time IS NULL)"
)
"""What `trial.is_suspect` says of a record."""

COUNT_PENDING = """
SELECT count(*) FROM (
    SELECT 1 FROM operations INDEXED BY operations_ready
    WHERE ready_time IS NOT NULL AND state = 'PENDING' LIMIT ?
)
"""
COUNT_PENDING_IN_METHOD = """
SELECT count(*) FROM (
    SELECT 1 FROM operations INDEXED BY operations_ready
    WHERE method = ? AND ready_time IS NOT NULL AND state = 'PENDING' LIMIT ?
)
"""
COUNT_RUNNING = """
SELECT count(*) FROM operations INDEXED BY operations_running
WHERE method = ? AND state = 'RUNNING'
"""
BY_REQUEST = f"""
SELECT o.id, {SELECT_COLUMNS} FROM operations o
WHERE o.request_id = ? AND o.request_id <> '' AND o.method = ? AND o.parent = ? AND o.principal = ?
"""
EXCLUSIVE_HOLDER = """
SELECT name, deleted FROM operations
WHERE exclusive_key = ? AND exclusive_key <> '' AND ready_time IS NOT NULL
"""
REDRIVE = f"""
SELECT {SELECT_COLUMNS} FROM operations o
WHERE o.retried_from = :name AND o.retried_from <> '' AND o.deleted = 0
    AND (o.ready_time IS NOT NULL OR (:done AND o.expire_time > :now))
ORDER BY o.ready_time IS NULL, o.create_time DESC, o.name LIMIT 1
"""
COPY_REQUEST = """
INSERT INTO requests SELECT :new, type_url, value FROM requests WHERE operation = :old
"""
COPY_STEPS = """
INSERT INTO steps SELECT :new, key, type_url, value FROM steps WHERE operation = :old
"""
REAPABLE = f"""
SELECT o.id, {SELECT_COLUMNS} FROM operations o WHERE o.id IN (
    SELECT id FROM operations
    WHERE cancel_requested_time IS NOT NULL AND ready_time <= :now
        AND (state = 'PENDING' OR ready_time <= :lost_by)
    UNION
    SELECT id FROM operations
    WHERE deadline <= :now AND ready_time <= :now
        AND (state = 'PENDING' OR ready_time <= :lost_by)
    LIMIT :limit
)
"""
HIDE = "UPDATE operations SET request_id = ?, deleted = ? WHERE id = ?"
FORGET = "DELETE FROM operations WHERE id = ?"
FORGET_EXPIRED = """
DELETE FROM operations WHERE id IN (
    SELECT id FROM operations WHERE expire_time <= ? ORDER BY expire_time LIMIT ?
)
"""
PUT_OFF = "UPDATE operations SET ready_time = ? WHERE id = ?"
RECORD_STEP = "INSERT INTO steps VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
VERSION = "SELECT revision, ready_time FROM operations WHERE name = ?"
POINT_READ = f"SELECT {SELECT_COLUMNS} FROM operations o WHERE o.name = ?"
STEPS = """
SELECT s.key, s.type_url, s.value
FROM operations o JOIN steps s ON s.operation = o.id WHERE o.name = ?
"""
ATTEMPTS = """
SELECT a.epoch, a.number, a.worker, a.start_time, a.end_time, a.outcome, a.error, a.counted
FROM operations o JOIN attempts a ON a.operation = o.id WHERE o.name = ? ORDER BY a.epoch
"""
STATS = """
SELECT method,
    count(*) FILTER (WHERE ready_time <= :now),
    count(*) FILTER (WHERE ready_time > :now AND state = 'PENDING'),
    count(*) FILTER (WHERE ready_time > :now AND state = 'RUNNING'),
    0,
    min(ready_time) FILTER (WHERE ready_time <= :now)
FROM operations WHERE ready_time IS NOT NULL GROUP BY method
UNION ALL
SELECT method, 0, 0, 0, count(*), NULL
FROM operations
WHERE dead_letter = 1 AND deleted = 0 AND (expire_time IS NULL OR expire_time > :now)
GROUP BY method
"""

SETTING = "SELECT value FROM settings WHERE key = ?"
SET_SETTING = "UPDATE settings SET value = ? WHERE key = ?"
COUNT_ALL = "SELECT count(*) FROM operations"
SIZES = """
SELECT o.id, length(o.metadata_value) + coalesce(length(o.response_value), 0)
    + coalesce(length(o.error), 0) + coalesce(length(o.last_error), 0)
    + coalesce((SELECT length(r.value) FROM requests r WHERE r.operation = o.id), 0)
    + coalesce((SELECT sum(length(s.value)) FROM steps s WHERE s.operation = o.id), 0)
FROM operations o WHERE o.id > ? ORDER BY o.id LIMIT ?
"""
HOLDERS = """
SELECT 'request_id', name FROM operations
WHERE request_id = :request_id AND request_id <> '' AND method = :method AND parent = :parent
    AND principal = :principal
UNION ALL
SELECT 'exclusive key', name FROM operations
WHERE exclusive_key = :exclusive_key AND exclusive_key <> '' AND ready_time IS NOT NULL
UNION ALL
SELECT 'work to redrive', name FROM operations
WHERE retried_from = :retried_from AND retried_from <> '' AND ready_time IS NOT NULL
    AND deleted = 0
"""
"""What unique indexes keep an operation out for, and who has it."""


def batches(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut rows into runs whose lengths are powers of two."""
    start = 0
    while start < len(rows):
        size = min(MAX_ROWS, 1 << (len(rows) - start).bit_length() - 1)
        yield rows[start : start + size]
        start += size


def flat(rows: Sequence[Row]) -> list[Any]:
    """Return the values of rows, one after the other."""
    return list(chain.from_iterable(rows))


@cache
def values(columns: int, rows: int) -> str:
    """Return a VALUES clause of placeholders."""
    row = f"({', '.join('?' * columns)})"
    return f"VALUES {', '.join([row] * rows)}"


@cache
def insert_operations(rows: int) -> str:
    """Keep new operations; those that a unique index refuses are left out."""
    return f"""
    INSERT INTO operations ({", ".join(COLUMNS)}) {values(len(COLUMNS), rows)}
    ON CONFLICT DO NOTHING RETURNING id, name
    """


@cache
def insert_requests(rows: int) -> str:
    """Keep the requests of new operations."""
    return f"INSERT INTO requests {values(3, rows)}"


@cache
def update_operations(rows: int) -> str:
    """Write changed operations back: id first, then CHANGING_COLUMNS."""
    sources = ", ".join(f"v.column{number}" for number in range(2, len(CHANGING_COLUMNS) + 2))
    return f"""
    UPDATE operations SET ({", ".join(CHANGING_COLUMNS)}) = ({sources})
    FROM ({values(len(CHANGING_COLUMNS) + 1, rows)}) AS v WHERE operations.id = v.column1
    """


@cache
def insert_attempts(rows: int) -> str:
    """Keep attempts: the operation's id, then the attempt's values."""
    return f"INSERT OR REPLACE INTO attempts {values(9, rows)}"


@cache
def select_by_name(rows: int) -> str:
    """Read operations by their names."""
    return f"""
    SELECT o.id, {SELECT_COLUMNS} FROM operations o WHERE o.name IN ({", ".join("?" * rows)})
    """


@cache
def select_hinted(rows: int) -> str:
    """Read by their ids what there is to be told of operations."""
    return f"""
    SELECT name, method, state, cancel_requested_time IS NOT NULL, deleted FROM operations
    WHERE id IN ({", ".join("?" * rows)})
    """


@cache
def select_claimed(rows: int) -> str:
    """Read operations with their requests by their ids."""
    return f"""
    SELECT o.id, r.type_url, r.value, {SELECT_COLUMNS}
    FROM operations o JOIN requests r ON r.operation = o.id
    WHERE o.id IN ({", ".join("?" * rows)})
    """


@cache
def renew_leases(rows: int) -> str:
    """Extend leases: the new time, then (name, epoch) of each."""
    return f"""
    UPDATE operations SET ready_time = ? FROM ({values(2, rows)}) AS v
    WHERE operations.name = v.column1 AND operations.lease_epoch = v.column2
        AND operations.state = 'RUNNING'
    RETURNING name, lease_epoch, cancel_requested_time IS NOT NULL
    """


@cache
def select_ready(methods: int, *, suspects: bool) -> str:
    """Find what is ready: (method, now, lost_by, slots) of each method, then the limit.

    The rows are (id, ready_time, method, whether it is a suspect, 0). With suspects, (method, now, lost_by, how many of them) of each method follow on the
    first. Leases that ran out after `lost_by` are not lost.
    """
    one = f"""
    SELECT * FROM (
        SELECT id, ready_time, method, 0 AS suspect, 0 AS waits FROM operations
        WHERE method = ? AND ready_time <= ? AND (state = 'PENDING' OR ready_time <= ?)
            AND NOT {_SUSPECT}
        ORDER BY ready_time LIMIT ?
    )
    """
    suspect = f"""
    SELECT * FROM (
        SELECT id, ready_time, method, 1, 0 FROM operations
        WHERE method = ? AND ready_time <= ? AND (state = 'PENDING' OR ready_time <= ?)
            AND interruptions > 0 AND {_SUSPECT}
        ORDER BY ready_time LIMIT ?
    )
    """
    selects = [one] * methods + [suspect] * methods * suspects
    return " UNION ALL ".join(selects) + " ORDER BY 2, 1 LIMIT ?"


def _limited(test: str, *, suspect: bool, waits: bool, limit: str) -> str:
    index = "operations_running" if not waits else "operations_ready"
    if waits and suspect:
        index = "operations_interrupted"
    return f"""
    SELECT * FROM (
        SELECT id, ready_time, method, {suspect:d}, {waits:d} FROM operations INDEXED BY {index}
        WHERE method = :method AND {test} {"AND interruptions > 0" * suspect}
            AND {"NOT" * (not suspect)} {_SUSPECT}
        ORDER BY ready_time LIMIT {limit}
    )
    """


_WAITS = "state = 'PENDING' AND ready_time <= :now"
_LOST = "state = 'RUNNING' AND ready_time <= :lost_by"
SELECT_READY_OF_LIMITED = " UNION ALL ".join(
    (
        _limited(_WAITS, suspect=False, waits=True, limit=":room"),
        _limited(_WAITS, suspect=True, waits=True, limit="min(:room, :suspects)"),
        _limited(_LOST, suspect=False, waits=False, limit=":slots"),
        _limited(_LOST, suspect=True, waits=False, limit=":suspects"),
    )
)
"""Finds what is ready of a method that has a limit; with `room` for so many that wait.

The rows are those of `select_ready`, but say with 1 at their end what waits.
"""


@cache
def next_ready(methods: int, *, suspects: bool) -> str:
    """Find when something becomes ready, or was ready first: (method, lost_by, now) of each method.

    Leases that ran out after `lost_by` do not matter.
    """
    one = f"""
    SELECT * FROM (
        SELECT ready_time AS moment FROM operations
        WHERE method = ? AND ready_time IS NOT NULL {"" if suspects else f"AND NOT {_SUSPECT}"}
            AND (state = 'PENDING' OR ready_time <= ? OR ready_time > ?)
        ORDER BY ready_time LIMIT 1
    )
    """
    return f"SELECT min(moment) FROM ({' UNION ALL '.join([one] * methods)})"


NEXT_LEASE = f"""
SELECT min(ready_time) FROM operations INDEXED BY operations_running
WHERE method = :method AND state = 'RUNNING' AND (:suspects OR NOT {_SUSPECT})
    AND (ready_time <= :lost_by OR ready_time > :now)
"""
"""When the first lease of a method runs out, or did: what `next_ready` says of what runs."""


@cache
def list_page(
    *, parent: bool, states: int, method: bool, dead_letter: bool, principal: bool, after: bool
) -> str:
    """Read a page, the newest first. Parameters are named; states are state0 and so on.

    Without a parent, a page of dead letters.
    """
    tests = [
        "o.parent = :parent" if parent else "o.dead_letter = 1",  # as the index has it
        "o.deleted = 0",
        "(o.expire_time IS NULL OR o.expire_time > :now)",
    ]
    if states:
        tests.append(f"o.state IN ({', '.join(f':state{number}' for number in range(states))})")
    if method:
        tests.append("o.method = :method")
    if dead_letter:
        tests.append("o.dead_letter = :dead_letter")
    if principal:
        tests.append("o.principal = :principal")
    if after:
        tests.append(
            "o.create_time <= :create_time AND (o.create_time < :create_time OR o.name > :name)"
        )
    return f"""
    SELECT {SELECT_COLUMNS}
    FROM operations o INDEXED BY {"operations_listed" if parent else "operations_dead"}
    WHERE {" AND ".join(tests)}
    ORDER BY o.create_time DESC, o.name LIMIT :limit
    """


@cache
def select_ids(rows: int) -> str:
    """Read the ids of operations by their names."""
    return f"SELECT name, id FROM operations WHERE name IN ({', '.join('?' * rows)})"


@cache
def select_archived(rows: int) -> str:
    """Read operations with their requests, if these are there, by their ids."""
    return f"""
    SELECT o.id, r.type_url, r.value, {SELECT_COLUMNS}
    FROM operations o LEFT JOIN requests r ON r.operation = o.id
    WHERE o.id IN ({", ".join("?" * rows)}) ORDER BY o.id
    """


@cache
def select_steps(rows: int) -> str:
    """Read the steps of operations by their ids."""
    return f"SELECT * FROM steps WHERE operation IN ({', '.join('?' * rows)})"


@cache
def select_attempts(rows: int) -> str:
    """Read the attempts of operations by their ids."""
    return f"""
    SELECT * FROM attempts WHERE operation IN ({", ".join("?" * rows)}) ORDER BY operation, epoch
    """
