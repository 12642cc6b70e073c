"""Every limit and interval of the engine, by name."""

from dataclasses import dataclass, fields
from datetime import timedelta

from outlast.domain.checks import require_count, require_time
from outlast.domain.errors import ConfigurationError

_KIB = 1024
_MIB = 1024 * _KIB
_SHORTEST_LEASE = timedelta(milliseconds=100)
"""Three renewals of it are still made in time, with their commits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How much the engine does at once, how long it waits, and what it refuses."""

    concurrency: int = 64
    """How many operations this process runs at the same time."""
    lease: timedelta = timedelta(seconds=30)
    """How long a worker that has gone silent keeps an operation; at least 100 ms."""
    poll_interval: timedelta = timedelta(seconds=1)
    """How often the store is asked for work of which no hint came."""
    cancel_grace: timedelta = timedelta(seconds=5)
    """How long a handler that must stop may take for it before it is abandoned."""
    cancel_limit: timedelta = timedelta(minutes=5)
    """How long a handler may go on after a caller cancelled before it is abandoned."""
    max_loop_block: timedelta = timedelta(seconds=60)
    """How long leases are kept for an event loop that a handler blocks."""
    max_wait: timedelta = timedelta(seconds=60)
    """The longest that one WaitOperation call lasts."""
    waiter_poll_interval: timedelta = timedelta(seconds=10)
    """How often waited-for operations are looked up in case a hint was lost."""
    store_patience: timedelta = timedelta(seconds=30)
    """How long a call waits for a store that cannot answer, if its deadline allows."""
    expire_interval: timedelta = timedelta(seconds=60)
    """How often expired operations are swept out."""
    max_pending: int = 10_000
    """How many operations may wait for a worker; over it, starts and redrives are refused."""
    max_calls: int = 10_000
    """How many calls, besides WaitOperation, may be under way: until their answers are sent."""
    max_waiters: int = 100_000
    """How many calls of WaitOperation may be under way: until their answers are sent."""
    max_request_bytes: int = 4 * _MIB
    max_response_bytes: int = 2 * _MIB
    max_metadata_bytes: int = 64 * _KIB
    max_step_bytes: int = 256 * _KIB
    max_error_bytes: int = 64 * _KIB
    max_process_bytes: int = 64 * _MIB
    """What a call of run_in_process sends to the process, and what it gets back."""
    max_page_bytes: int = 3 * _MIB
    """A list page ends before it is larger than this."""
    max_scanned: int = 10_000
    """How many records one list call looks at; a short page with a token follows."""

    def __post_init__(self) -> None:
        for field in fields(self):
            check = require_time if isinstance(field.default, timedelta) else require_count
            check(field.name, getattr(self, field.name))
        if self.lease < _SHORTEST_LEASE:
            shortest = _SHORTEST_LEASE.total_seconds()
            raise ConfigurationError(f"lease must be at least {shortest} s, not {self.lease}")
