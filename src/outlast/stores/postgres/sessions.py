"""Who else has a session with the database, for a person who has to find them."""

from collections.abc import Sequence

LOCK = 0x4F75746C61737400
"""The key of the advisory lock under which one node at a time migrates."""

_TOLD = 3
"""How many sessions are described, at the most."""

_HOLDS = """
pid IN (
    SELECT pid FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND (classid::bigint << 32) | objid::bigint = %(lock)s
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
"""
_IS_OURS = "application_name IN ('outlast', current_setting('application_name'))"
_DESCRIBED = """
SELECT 'pid ' || pid || ' (' || concat_ws(', ',
    nullif(application_name, ''),
    'from ' || host(client_addr),
    state || ' for ' || extract(epoch FROM clock_timestamp() - state_change)::int || ' s'
) || ')'
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND ({})
ORDER BY pid
"""

HOLDERS = _DESCRIBED.format(_HOLDS).encode()
"""Describes who has the lock; what only the session's own role may see is left out."""
USERS = _DESCRIBED.format(f"{_IS_OURS} OR {_HOLDS}").encode()
"""Describes who has the lock or the name of a process of Outlast."""


def listed(rows: Sequence[Sequence[str]]) -> str:
    """Return the first of the sessions that a query describes, and how many more there are."""
    told = ", ".join(description for (description,) in rows[:_TOLD])
    more = len(rows) - _TOLD
    return f"{told} and {more} more" if more > 0 else told or "another process"
