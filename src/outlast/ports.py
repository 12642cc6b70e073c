"""The contracts between the engine and what it runs on.

What a method promises is written here and nowhere else; `outlast.testing` turns
it into tests that every store passes.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from outlast.domain.errors import StoreUnavailableError
from outlast.domain.listing import ListQuery
from outlast.domain.operation import Attempt, Claim, Lease, Operation, Progress, State
from outlast.domain.status import Payload
from outlast.domain.transitions import Outcome

FARTHEST_AHEAD = timedelta(days=1)
"""How far ahead of the time of day a time may be that servers go by: beyond, it was wrong."""


class TimerHandle(Protocol):
    """A call that is due later."""

    def cancel(self) -> None:
        """Make sure that the call is not made (any more)."""


class Clock(Protocol):
    """Time. Tests own it by handing in another one."""

    def now(self) -> datetime:
        """Return the time of day, aware, in UTC. It may jump."""

    def monotonic(self) -> float:
        """Return seconds that never go back, from an arbitrary start."""

    def sleep(self, seconds: float) -> Awaitable[None]:
        """Return after so many seconds, at once if there are none."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> TimerHandle:
        """Have `callback` called on the event loop after so many seconds."""


@dataclass(frozen=True, slots=True)
class Change:
    """A hint that an operation has changed, and how it stood after that."""

    name: str
    method: str
    state: State
    cancel_requested: bool = False
    deleted: bool = False
    record: Operation | None = None
    """The committed record, if the feed has it at hand."""

    @classmethod
    def of(cls, operation: Operation) -> "Change":
        """Return the hint for a record that has just been written."""
        return cls(
            operation.name,
            operation.method,
            operation.state,
            operation.cancel_requested_time is not None,
            operation.deleted,
            operation,
        )


Changes = Sequence[Change] | None
"""Hints, or None: something changed, anything may have, look at everything again."""


class ChangeFeed(ABC):
    """Hints about what changed. They may be lost, late or doubled; nothing may rest on them."""

    @abstractmethod
    def subscribe(self, listener: Callable[[Changes], None]) -> Callable[[], None]:
        """Have `listener` called on the event loop after changes; return how to end that.

        A change is visible to readers before the listener hears of it. The listener
        must be quick and must not raise.
        """


@dataclass(frozen=True, slots=True)
class Inserted:
    """What became of an insert."""

    operation: Operation
    created: bool
    """False if an operation with the same request_id was there already; it is returned."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a worker was given."""

    claims: Sequence[Claim]
    next_ready_time: datetime | None
    """When the next operation of the asked methods becomes ready, if nothing changes.

    None if none is known; in the past if more are ready than were given. Suspects do
    not matter when no more of them may be given, nor leases that ran out only by a jump,
    nor what waits of methods that are `held_back` or `contended`.
    """
    held_back: frozenset[str] = frozenset()
    """Those of the asked methods of which as many run as may: others must end or wait first."""
    contended: frozenset[str] = frozenset()
    """Those of which another claim is giving operations just now: it is worth asking again soon."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """What became of the leases of a worker."""

    lost: frozenset[Lease] = frozenset()
    """No longer the worker's: it must stop that work and write nothing more."""
    cancel_requested: frozenset[Lease] = frozenset()
    """Renewed, and the handler is to be cancelled."""
    locked: frozenset[Lease] = frozenset()
    """Not renewed, and not lost by now: somebody keeps the record from being written."""


@dataclass(frozen=True, slots=True)
class QueueStats:
    """How much work one method has. Work that was hidden counts as long as it goes on."""

    method: str
    ready: int = 0
    """What `claim` would take now: due, or with a lease that ran out."""
    delayed: int = 0
    """PENDING, and not due yet."""
    running: int = 0
    """RUNNING, under a lease."""
    dead_letters: int = 0
    """Visible dead letters."""
    oldest_ready_age: timedelta | None = None
    """How long the longest ready one has been ready; None if none is."""


class OperationStore(ABC):
    """Keeps operations. One record is the operation and its queue entry.

    Every method is atomic. Every write is durable, as far as the store says it is,
    before the method returns, and visible to every later read in any process.
    The store's clock decides what is due and what has expired. A method raises
    StoreUnavailableError if the store cannot answer now; then a write may or may not
    have happened, and making it again is safe. Records that were handed in or out
    are never changed afterwards.
    """

    durability: str
    """What survives what, in a few words for a person."""

    @property
    @abstractmethod
    def changes(self) -> ChangeFeed:
        """The feed of every change that this store's users make, and hints of others'."""

    @property
    @abstractmethod
    def secret(self) -> bytes:
        """32 random bytes, made with the store and the same for all who open it."""

    @property
    def latest_time(self) -> datetime | None:
        """The latest time at which it was written to, by the clocks of those who did.

        None says nothing. A time of day may go back; who opens the store later is not to
        go by an earlier time than what is kept in it. A time that turns out to be more than
        FARTHEST_AHEAD ahead is given up for that of who writes next.
        """
        return None

    @abstractmethod
    async def insert(
        self,
        operation: Operation,
        request: Payload,
        *,
        max_pending: int | None = None,
        max_pending_in_method: int | None = None,
    ) -> Inserted:
        """Keep a new PENDING operation, which is due at its `ready_time`.

        The same operation inserted again, known by its name, is returned as it is now.
        If a visible operation has the same principal, parent, method and (not empty)
        request_id, it is returned instead, also to callers that insert at the same
        time; with another request_digest RequestIdReusedError is raised. Raises
        ExclusiveConflictError if an operation with the same (not empty) exclusive_key
        is not done, and QueueFullError if `max_pending` operations are PENDING, or
        `max_pending_in_method` of the same method. When
        it raises, nothing is kept.
        """

    @abstractmethod
    async def redrive(
        self,
        name: str,
        operation_id: str,
        *,
        again: bool = True,
        max_pending: int | None = None,
        max_pending_in_methods: Mapping[str, int] | None = None,
    ) -> Inserted:
        """Keep a new operation that does the work of a visible one again (`transitions.redrive`).

        It is due at once and has the request and the recorded steps of the old one, which
        stays as it is. The same call made again, known by its `operation_id`, returns the
        operation as it is now. If a visible redrive of the same operation is not done, or
        unless `again` if there is one at all, it is returned instead (the newest, ties by
        name), also to callers at the same time. `max_pending_in_methods` has the limits of
        methods that have one. Raises OperationNotFoundError and NotRedrivableError, and as
        `insert` ExclusiveConflictError and QueueFullError; then nothing is kept.
        """

    def peek(self, name: str) -> Operation | None:
        """Return a visible operation if that takes no more than looking into memory.

        It is as current as what `get` returns. None says nothing: ask `get`.
        """
        return None

    @abstractmethod
    async def get(self, name: str) -> Operation:
        """Return an operation; raise OperationNotFoundError if none is visible."""

    @abstractmethod
    async def get_many(self, names: Collection[str]) -> Mapping[str, Operation]:
        """Return those of the named operations that are visible.

        If one cannot be read, by any error, neither can all: who needs the others asks again.
        """

    @abstractmethod
    async def list_page(self, query: ListQuery) -> Sequence[Operation]:
        """Return at most `query.limit` visible operations, in the query's order.

        Fewer are returned only if there are no more. An operation that is visible
        throughout is met exactly once by following the cursors.
        """

    @abstractmethod
    async def claim(
        self,
        worker: str,
        slots: Mapping[str, int],
        limit: int,
        lease: timedelta,
        *,
        suspects: int = 1,
        distrust: timedelta = timedelta(),
        max_running: Mapping[str, int] | None = None,
    ) -> Claims:
        """Give a worker operations that are ready, the longest ready first.

        At most `limit` in all and `slots[method]` of each method; other methods are
        never given. At most `suspects` of them are suspects (`trial.is_suspect`); more
        of these hold up nothing that is behind them. Ready are PENDING operations that
        are due and RUNNING ones whose lease ran out and would have if the time of day had
        not jumped ahead, as it did by `distrust` before the call and may do until it is
        this call's turn. Each is given to one worker, under a lease with a new epoch and of
        the given length. What `transitions.claim` ends instead is ended, and may count
        towards these limits.

        `max_running` has the limits of methods that have one: of those nothing that is
        PENDING is given that would make more RUNNING, on all workers, also if several claim
        at the same time. RUNNING counts whatever its lease: what has lost it keeps its place,
        so that a late renewal exceeds no limit, and is taken over in any case.
        """

    @abstractmethod
    async def renew(self, leases: Collection[Lease], duration: timedelta) -> Renewal:
        """Let leases run for `duration` from now, and say which are lost or to be cancelled."""

    def renew_from_thread(self, leases: Collection[Lease], duration: timedelta) -> Renewal:
        """Do what `renew` does, for another thread while the event loop stands still.

        It blocks until that is durable. A store that leaves it out loses the leases of
        a loop that is blocked for longer than they last.
        """
        raise StoreUnavailableError("this store renews leases on the event loop only")

    @abstractmethod
    async def record_progress(
        self, lease: Lease, progress: Progress | None, metadata: Payload
    ) -> Operation:
        """Record how far the work is; raise LeaseLostError if it is another's."""

    @abstractmethod
    async def record_step(self, lease: Lease, key: str, result: Payload) -> None:
        """Record the result of a step; raise LeaseLostError if the work is another's.

        The first result that is recorded under a key stays.
        """

    @abstractmethod
    async def steps(self, name: str) -> Mapping[str, Payload]:
        """Return the recorded steps of an operation, also of one that is hidden."""

    @abstractmethod
    async def finish(self, lease: Lease, outcome: Outcome) -> Operation:
        """End an attempt (`transitions.finish`); raise LeaseLostError if it is another's.

        Returns the record as it is afterwards. A record that was deleted meanwhile
        does not come back; when it is done it is forgotten.
        """

    @abstractmethod
    async def request_cancel(self, name: str) -> Operation:
        """Ask an operation to stop (`transitions.request_cancel`); raise OperationNotFoundError."""

    @abstractmethod
    async def delete(self, name: str) -> None:
        """Hide an operation from readers; raise OperationNotFoundError if none is visible.

        Work that waits or runs goes on. What is done is forgotten at once.
        """

    @abstractmethod
    async def expire(self, limit: int) -> int:
        """Forget at most `limit` expired operations with all they own; return how many."""

    @abstractmethod
    async def reap(self, limit: int, *, distrust: timedelta = timedelta()) -> int:
        """End at most `limit` ready operations that must not run again; return how many.

        They are those that `transitions.reap` ends, of any method. `claim` ends them too,
        but for workers that know their method; there may be none any more. `distrust` is
        that of `claim`.
        """

    @abstractmethod
    async def attempts(self, name: str) -> Sequence[Attempt]:
        """Return the attempts of a visible operation, the oldest first; OperationNotFoundError."""

    @abstractmethod
    async def stats(self) -> Sequence[QueueStats]:
        """Return how much work each method has, ordered by method.

        A method of which nothing is to be told may be left out.
        """
