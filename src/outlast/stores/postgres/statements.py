"""The statements, all over `outlast.operations` and its companions.

Rows travel as arrays, one for each column: so each statement is one text, however many
rows it is for, and is prepared once.
"""

from collections.abc import Sequence

from outlast.domain.trial import SUSPECT_FROM
from outlast.stores.postgres.arrays import RowStatement
from outlast.stores.rows import CHANGING_COLUMNS, COLUMNS

_TYPES = {
    "name": "text", "parent": "text", "method": "text", "create_time": "bigint",
    "principal": "text", "request_digest": "bytea", "target": "text", "exclusive_key": "text",
    "max_attempts": "bigint", "timeout": "bigint", "retention": "bigint", "retried_from": "text",
    "state": "text", "revision": "bigint", "attempt": "bigint", "interruptions": "bigint",
    "lease_epoch": "bigint", "ready_time": "bigint", "worker": "text", "update_time": "bigint",
    "start_time": "bigint", "attempt_start_time": "bigint", "deadline": "bigint",
    "end_time": "bigint", "expire_time": "bigint", "cancel_requested_time": "bigint",
    "dead_letter": "boolean", "progress": "text", "metadata_type": "text",
    "metadata_value": "bytea", "last_error": "text", "error": "text", "response_type": "text",
    "response_value": "bytea", "request_id": "text", "deleted": "boolean",
}  # fmt: skip

SELECT_COLUMNS = ", ".join(f"o.{column}" for column in COLUMNS)

_SUSPECT = (
    f"(o.interruptions + (o.state = 'RUNNING')::int >= {SUSPECT_FROM}"
    " AND o.cancel_requested_time IS NULL)"
)
"""What `trial.is_suspect` says of a record."""
_LOST = "(o.state = 'PENDING' OR o.ready_time <= %(lost_by)s)"
"""Whether what is ready may be taken: leases that ran out after `lost_by` are not lost."""
_VISIBLE = "NOT o.deleted AND (o.expire_time IS NULL OR o.expire_time > %(now)s)"


def _for_rows(sql: str, types: Sequence[str]) -> RowStatement:
    """Put the arrays of the rows' columns where a statement has `{arrays}`."""
    return RowStatement(sql.format(arrays=", ".join(f"%b::{it}[]" for it in types)), types)


def _types(columns: Sequence[str]) -> list[str]:
    return [_TYPES[column] for column in columns]


BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
# No statement runs for as long as it takes to compile: a claim from a long queue seems to.
LIMITS_AND_TIME = """
SELECT set_config('statement_timeout', %s, true),
    set_config('idle_in_transaction_session_timeout', %s, true),
    set_config('synchronous_commit', CASE current_setting('synchronous_commit')
        WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true),
    set_config('lock_timeout', %s, true),
    set_config('jit', 'off', true),
    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
"""
LOAD = f"""
SELECT o.id, {SELECT_COLUMNS} FROM outlast.operations o
WHERE o.name = ANY(%b::text[]) ORDER BY o.name FOR UPDATE
"""
INSERT_OPERATIONS = _for_rows(
    f"""
INSERT INTO outlast.operations ({", ".join(COLUMNS)}, exclusive_digest)
SELECT * FROM unnest({{arrays}}) ON CONFLICT DO NOTHING RETURNING id, name
""",
    [*_types(COLUMNS), "bytea"],
)
INSERT_REQUESTS = _for_rows(
    "INSERT INTO outlast.requests SELECT * FROM unnest({arrays})", ["bigint", "text", "bytea"]
)
_NEW_COLUMNS = (*COLUMNS, "exclusive_digest")
INSERT_WITH_REQUESTS = _for_rows(
    f"""
WITH new AS (
    SELECT * FROM unnest({{arrays}})
        AS new({", ".join(_NEW_COLUMNS)}, request_type, request_value)
    WHERE %s::bigint IS NULL OR (
        SELECT count(*) FROM (
            SELECT 1 FROM outlast.operations WHERE state = 'PENDING' LIMIT %s
        ) AS pending
    ) <= %s
), kept AS (
    INSERT INTO outlast.operations ({", ".join(_NEW_COLUMNS)})
    SELECT {", ".join(_NEW_COLUMNS)} FROM new ON CONFLICT DO NOTHING RETURNING id, name
), requests AS (
    INSERT INTO outlast.requests
    SELECT kept.id, new.request_type, new.request_value FROM kept JOIN new USING (name)
)
SELECT id, name FROM kept
""",
    [*_types(COLUMNS), "bytea", "text", "bytea"],
)
"""After the rows come a limit of what is PENDING, twice, and what it leaves before them."""
_SET_CHANGING = f"""
UPDATE outlast.operations o
SET ({", ".join(CHANGING_COLUMNS)}) = ({", ".join(f"v.{it}" for it in CHANGING_COLUMNS)})
"""
UPDATE_OPERATIONS = _for_rows(
    f"""{_SET_CHANGING}
FROM unnest({{arrays}}) AS v(id, {", ".join(CHANGING_COLUMNS)}) WHERE o.id = v.id
""",
    ["bigint", *_types(CHANGING_COLUMNS)],
)
UPDATE_UNCHANGED = _for_rows(
    f"""{_SET_CHANGING}
FROM unnest({{arrays}}) AS v(id, known, {", ".join(CHANGING_COLUMNS)})
WHERE o.id = v.id AND o.revision = v.known RETURNING o.id
""",
    ["bigint", "bigint", *_types(CHANGING_COLUMNS)],
)
"""Changes those that still have the revision that they are known with."""
INSERT_ATTEMPTS = _for_rows(
    """
INSERT INTO outlast.attempts SELECT * FROM unnest({arrays})
ON CONFLICT (operation, epoch) DO UPDATE SET (worker, start_time, end_time, outcome, error,
    counted) = (excluded.worker, excluded.start_time, excluded.end_time, excluded.outcome,
    excluded.error, excluded.counted)
""",
    ["bigint", "bigint", "bigint", "text", "bigint", "bigint", "text", "text", "boolean"],
)
HIDE = _for_rows(
    """
UPDATE outlast.operations o SET request_id = v.request_id, deleted = v.deleted
FROM unnest({arrays}) AS v(request_id, deleted, id)
WHERE o.id = v.id
""",
    ["text", "boolean", "bigint"],
)
FORGET = "DELETE FROM outlast.operations WHERE id = ANY(%b::bigint[])"
FORGET_EXPIRED = """
DELETE FROM outlast.operations WHERE id = ANY(ARRAY(
    SELECT id FROM outlast.operations WHERE expire_time <= %s
    ORDER BY expire_time LIMIT %s FOR UPDATE SKIP LOCKED
))
"""
PUT_OFF = "UPDATE outlast.operations SET ready_time = %s WHERE id = %s"
RECORD_STEPS = _for_rows(
    "INSERT INTO outlast.steps SELECT * FROM unnest({arrays}) ON CONFLICT DO NOTHING",
    ["bigint", "text", "text", "bytea"],
)
COUNT_PENDING = """
SELECT count(*) FROM (
    SELECT 1 FROM outlast.operations WHERE state = 'PENDING' LIMIT %s
) AS pending
"""
COUNT_PENDING_IN_METHOD = """
SELECT count(*) FROM (
    SELECT 1 FROM outlast.operations WHERE state = 'PENDING' AND method = %s LIMIT %s
) AS pending
"""
PLACES = """
SELECT slot.method, running.count, running.lost, waiting.due,
    CASE WHEN waiting.due AND running.count < slot.lockable
        THEN pg_try_advisory_xact_lock(%(namespace)s, hashtext(slot.method)) ELSE false END
FROM unnest(%(methods)b::text[], %(lockable)b::bigint[]) AS slot(method, lockable)
CROSS JOIN LATERAL (
    SELECT count(*) AS count, count(*) FILTER (WHERE o.ready_time <= %(lost_by)s) > 0 AS lost
    FROM outlast.operations o WHERE o.method = slot.method AND o.state = 'RUNNING'
) AS running
CROSS JOIN LATERAL (
    SELECT (
        SELECT true FROM outlast.operations o
        WHERE o.method = slot.method AND o.ready_time <= %(now)s AND o.state = 'PENDING'
        ORDER BY o.ready_time LIMIT 1
    ) IS NOT NULL AS due
) AS waiting
"""
"""Of each method, how many run, whether a lease of those is lost, and whether others are due.

Tries to lock those of which some are due, and fewer run than `lockable`.
"""
BY_REQUEST = f"""
SELECT o.id, {SELECT_COLUMNS} FROM outlast.operations o
WHERE o.request_id = %s AND o.request_id <> '' AND o.method = %s AND o.parent = %s
    AND o.principal = %s
"""
EXCLUSIVE_HOLDER = """
SELECT name, deleted FROM outlast.operations
WHERE exclusive_digest = %s AND exclusive_digest <> '' AND ready_time IS NOT NULL
"""
REDRIVE = f"""
SELECT o.id, {SELECT_COLUMNS} FROM outlast.operations o
WHERE o.retried_from = %(name)s AND o.retried_from <> '' AND NOT o.deleted
    AND (o.ready_time IS NOT NULL OR (%(done)s AND o.expire_time > %(now)s))
ORDER BY o.ready_time IS NULL, o.create_time DESC, o.name LIMIT 1
"""
COPY_REQUEST = """
INSERT INTO outlast.requests
SELECT %(new)s, type_url, value FROM outlast.requests WHERE operation = %(old)s
"""
COPY_STEPS = """
INSERT INTO outlast.steps
SELECT %(new)s, key, type_url, value FROM outlast.steps WHERE operation = %(old)s
"""
RENEW = """
WITH held AS (
    SELECT o.id FROM unnest(%(names)b::text[], %(epochs)b::bigint[]) AS lease(name, epoch)
    JOIN outlast.operations o ON o.name = lease.name
    WHERE o.lease_epoch = lease.epoch AND o.state = 'RUNNING' ORDER BY o.name FOR UPDATE OF o SKIP LOCKED
)
UPDATE outlast.operations o SET ready_time = %(until)s FROM held WHERE o.id = held.id
RETURNING o.name, o.lease_epoch, o.cancel_requested_time IS NOT NULL
"""
STILL_HELD = """
SELECT o.name, o.lease_epoch
FROM unnest(%(names)b::text[], %(epochs)b::bigint[]) AS lease(name, epoch)
JOIN outlast.operations o ON o.name = lease.name
WHERE o.lease_epoch = lease.epoch AND o.state = 'RUNNING'
"""
"""Which leases are good, also of records that somebody has locked."""
_READY = f"""
SELECT {{suspect}} AS suspect, o.id, {SELECT_COLUMNS} FROM outlast.operations o
WHERE o.method = slot.method AND {{ready}} AND {{test}}
ORDER BY o.ready_time, o.id LIMIT {{limit}} FOR UPDATE SKIP LOCKED
"""
_EITHER_READY = f"o.ready_time <= %(now)s AND {_LOST}"
_WAITING_READY = "o.ready_time <= %(now)s AND o.state = 'PENDING'"
_LEASE_LOST = "o.ready_time <= %(lost_by)s AND o.state = 'RUNNING'"


def _others(ready: str, limit: str) -> str:
    return _READY.format(suspect="false", ready=ready, test=f"NOT {_SUSPECT}", limit=limit)


def _suspects(ready: str, limit: str) -> str:
    test = f"o.interruptions > 0 AND {_SUSPECT}"
    return _READY.format(suspect="true", ready=ready, test=test, limit=limit)


CLAIM = f"""
WITH slot AS (
    SELECT * FROM unnest(%(methods)b::text[], %(free)b::bigint[]) AS slot(method, free)
), ready AS (
    SELECT taken.* FROM slot CROSS JOIN LATERAL ({_others(_EITHER_READY, "slot.free")}) AS taken
), tried AS (
    SELECT taken.*
    FROM slot CROSS JOIN LATERAL ({_suspects(_EITHER_READY, "%(suspects)s")}) AS taken
)
SELECT r.type_url, r.value, o.*
FROM (SELECT * FROM ready UNION ALL SELECT * FROM tried) AS o
CROSS JOIN LATERAL (
    SELECT type_url, value FROM outlast.requests WHERE operation = o.id LIMIT 1
) AS r
ORDER BY o.ready_time, o.id
"""
"""Locks, so that nobody else is given it, what is ready of each method, up to its free slots."""
CLAIM_LIMITED = f"""
WITH slot AS (
    SELECT * FROM unnest(%(methods)b::text[], %(free)b::bigint[], %(room)b::bigint[])
        AS slot(method, free, room)
), waiting AS (
    SELECT taken.* FROM slot CROSS JOIN LATERAL (
        {_others(_WAITING_READY, "least(slot.free, slot.room)")}) AS taken
), tried AS (
    SELECT taken.* FROM slot CROSS JOIN LATERAL (
        {_suspects(_WAITING_READY, "least(%(suspects)s, slot.room)")}) AS taken
), lost AS (
    SELECT taken.* FROM slot CROSS JOIN LATERAL (
        {_others(_LEASE_LOST, "slot.free")}) AS taken
), lost_again AS (
    SELECT taken.* FROM slot CROSS JOIN LATERAL (
        {_suspects(_LEASE_LOST, "%(suspects)s")}) AS taken
)
SELECT r.type_url, r.value, o.*
FROM (
    SELECT * FROM waiting UNION ALL SELECT * FROM tried
    UNION ALL SELECT * FROM lost UNION ALL SELECT * FROM lost_again
) AS o
CROSS JOIN LATERAL (
    SELECT type_url, value FROM outlast.requests WHERE operation = o.id LIMIT 1
) AS r
"""
"""What `CLAIM` does, of methods of which only so many more may run as there is `room`."""
NEXT_READY = f"""
SELECT min(first.ready_time) FROM unnest(%(methods)b::text[]) AS slot(method)
CROSS JOIN LATERAL (
    SELECT o.ready_time FROM outlast.operations o
    WHERE o.method = slot.method AND o.ready_time IS NOT NULL
        AND (%(suspects)s OR NOT {_SUSPECT}) AND ({_LOST} OR o.ready_time > %(now)s)
    ORDER BY o.ready_time LIMIT 1
) AS first
"""
NEXT_LEASE = f"""
SELECT min(first.ready_time) FROM unnest(%(methods)b::text[]) AS slot(method)
CROSS JOIN LATERAL (
    SELECT o.ready_time FROM outlast.operations o
    WHERE o.method = slot.method AND o.state = 'RUNNING'
        AND (%(suspects)s OR NOT {_SUSPECT})
        AND (o.ready_time <= %(lost_by)s OR o.ready_time > %(now)s)
    ORDER BY o.ready_time LIMIT 1
) AS first
"""
"""What `NEXT_READY` says of what runs."""
REAPABLE = f"""
SELECT o.id, {SELECT_COLUMNS} FROM outlast.operations o
WHERE ((o.cancel_requested_time IS NOT NULL AND o.ready_time <= %(now)s)
        OR (o.deadline <= %(now)s AND o.ready_time <= %(now)s)) AND {_LOST}
LIMIT %(limit)s FOR UPDATE SKIP LOCKED
"""
GET_MANY = f"SELECT {SELECT_COLUMNS} FROM outlast.operations o WHERE o.name = ANY(%b::text[])"
STEPS = """
SELECT s.key, s.type_url, s.value
FROM outlast.operations o JOIN outlast.steps s ON s.operation = o.id WHERE o.name = %s
"""
ATTEMPTS = """
SELECT a.epoch, a.number, a.worker, a.start_time, a.end_time, a.outcome, a.error, a.counted
FROM outlast.operations o JOIN outlast.attempts a ON a.operation = o.id
WHERE o.name = %s ORDER BY a.epoch
"""
STATS = """
SELECT method,
    count(*) FILTER (WHERE ready_time <= %(now)s),
    count(*) FILTER (WHERE ready_time > %(now)s AND state = 'PENDING'),
    count(*) FILTER (WHERE ready_time > %(now)s AND state = 'RUNNING'),
    0,
    min(ready_time) FILTER (WHERE ready_time <= %(now)s)
FROM outlast.operations WHERE ready_time IS NOT NULL GROUP BY method
UNION ALL
SELECT method, 0, 0, 0, count(*), NULL
FROM outlast.operations
WHERE dead_letter AND NOT deleted AND (expire_time IS NULL OR expire_time > %(now)s)
GROUP BY method
"""

SETTING = "SELECT value FROM outlast.settings WHERE key = %s"
SET_SETTING = "UPDATE outlast.settings SET value = %s WHERE key = %s"
COUNT_ALL = "SELECT count(*) FROM outlast.operations"
SIZES = """
SELECT o.id, length(o.metadata_value) + coalesce(length(o.response_value), 0)
    + coalesce(length(o.error), 0) + coalesce(length(o.last_error), 0)
    + coalesce((SELECT length(r.value) FROM outlast.requests r WHERE r.operation = o.id), 0)
    + coalesce((SELECT sum(length(s.value)) FROM outlast.steps s WHERE s.operation = o.id), 0)
FROM outlast.operations o WHERE o.id > %s ORDER BY o.id LIMIT %s
"""
SELECT_IDS = "SELECT name, id FROM outlast.operations WHERE name = ANY(%b::text[])"
SELECT_ARCHIVED = f"""
SELECT o.id, r.type_url, r.value, {SELECT_COLUMNS}
FROM outlast.operations o LEFT JOIN outlast.requests r ON r.operation = o.id
WHERE o.id = ANY(%b::bigint[]) ORDER BY o.id
"""
SELECT_STEPS = "SELECT * FROM outlast.steps WHERE operation = ANY(%b::bigint[])"
SELECT_ATTEMPTS = """
SELECT * FROM outlast.attempts WHERE operation = ANY(%b::bigint[]) ORDER BY operation, epoch
"""
HOLDERS = """
SELECT 'request_id', name FROM outlast.operations
WHERE request_id = %(request_id)s AND request_id <> '' AND method = %(method)s
    AND parent = %(parent)s AND principal = %(principal)s
UNION ALL
SELECT 'exclusive key', name FROM outlast.operations
WHERE exclusive_digest = %(exclusive_digest)s AND exclusive_digest <> ''
    AND ready_time IS NOT NULL
UNION ALL
SELECT 'work to redrive', name FROM outlast.operations
WHERE retried_from = %(retried_from)s AND retried_from <> '' AND ready_time IS NOT NULL
    AND NOT deleted
"""
"""What unique indexes keep an operation out for, and who has it."""


def list_page(
    *, parent: bool, states: bool, method: bool, dead_letter: bool, principal: bool, after: bool
) -> str:
    """Read a page, the newest first. Parameters are named. Without a parent, of dead letters."""
    tests = [_VISIBLE, "o.parent = %(parent)s" if parent else "o.dead_letter"]
    if states:
        tests.append("o.state = ANY(%(states)s)")
    if method:
        tests.append("o.method = %(method)s")
    if dead_letter:
        tests.append("o.dead_letter = %(dead_letter)s")
    if principal:
        tests.append("o.principal = %(principal)s")
    if after:
        tests.append(
            "o.create_time <= %(create_time)s"
            " AND (o.create_time < %(create_time)s OR o.name > %(name)s)"
        )
    return f"""
    SELECT {SELECT_COLUMNS} FROM outlast.operations o WHERE {" AND ".join(tests)}
    ORDER BY o.create_time DESC, o.name LIMIT %(limit)s
    """
