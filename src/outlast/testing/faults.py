"""A store that is as unreliable as a test wants it to be."""

from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import Enum, auto
from typing import TypeVar

from outlast.domain.errors import StoreUnavailableError
from outlast.domain.listing import ListQuery
from outlast.domain.operation import Attempt, Lease, Operation, Progress
from outlast.domain.status import Payload
from outlast.domain.transitions import Outcome
from outlast.ports import (
    ChangeFeed,
    Changes,
    Claims,
    Clock,
    Inserted,
    OperationStore,
    QueueStats,
    Renewal,
)

T = TypeVar("T")


class Moment(Enum):
    """When a call fails."""

    BEFORE = auto()
    """Nothing was done."""
    AFTER = auto()
    """It was done, and only the answer is lost."""


def _away() -> Exception:
    return StoreUnavailableError("the store is away")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What befalls one call. The default is nothing."""

    delay_before: float = 0.0
    """Seconds of the clock that pass before the store is asked."""
    delay_after: float = 0.0
    """Seconds of the clock that pass before its answer arrives."""
    fails: Moment | None = None
    error: Callable[[], Exception] = _away
    """Makes what is raised if the call fails."""


NO_FAULT = Fault()
AWAY = Fault(fails=Moment.BEFORE)
"""The store cannot be reached."""
ANSWER_LOST = Fault(fails=Moment.AFTER)
"""The store does what it was asked for, and nobody hears of it."""


class Hints(Enum):
    """What becomes of the hints of a store."""

    PASSED = auto()
    BARE = auto()
    """They come without the record."""
    VAGUE = auto()
    """All that comes is that something has changed."""
    LOST = auto()


class FaultyFeed(ChangeFeed):
    """The feed of another store, with its hints worsened."""

    def __init__(self, feed: ChangeFeed) -> None:
        self.hints = Hints.PASSED
        """What becomes of hints from now on."""
        self._feed = feed

    def subscribe(self, listener: Callable[[Changes], None]) -> Callable[[], None]:
        def worsened(changes: Changes) -> None:
            match self.hints:
                case Hints.PASSED:
                    listener(changes)
                case Hints.BARE if changes is not None:
                    listener([replace(change, record=None) for change in changes])
                case Hints.BARE | Hints.VAGUE:
                    listener(None)
                case Hints.LOST:
                    pass

        return self._feed.subscribe(worsened)


@dataclass(slots=True)
class _Order:
    """A fault for the calls to come of some methods (of all if none is named)."""

    fault: Fault
    methods: frozenset[str]
    left: int | None
    """For how many calls; None for all."""

    def take(self, method: str) -> bool:
        """Whether the fault befalls a call of a method; count that call."""
        if self.left == 0 or (self.methods and method not in self.methods):
            return False
        if self.left is not None:
            self.left -= 1
        return True


class FaultyStore(OperationStore):
    """Passes every call on to another store, except for the faults that a test injects.

    Several of them over one store are several workers of which each has troubles of
    its own. What is injected first befalls a call first; `plan` is asked about the
    calls that nothing was injected for.
    """

    def __init__(
        self, store: OperationStore, clock: Clock, plan: Callable[[str], Fault] | None = None
    ) -> None:
        self.durability = store.durability
        self.calls: Counter[str] = Counter()
        """How often each method was called, by its name; failed calls count too."""
        self.plan = plan
        """Says what befalls a call of the method of this name."""
        self._store = store
        self._clock = clock
        self._feed = FaultyFeed(store.changes)
        self._orders: deque[_Order] = deque()

    def inject(self, fault: Fault, *methods: str, times: int | None = None) -> None:
        """Let a fault befall the next calls of some methods, or of all if none is named."""
        unknown = set(methods) - OperationStore.__abstractmethods__
        if unknown:
            raise ValueError(f"a store has no {', '.join(sorted(unknown))}")
        self._orders.append(_Order(fault, frozenset(methods), times))

    def heal(self) -> None:
        """Take back everything that was injected, the worsened hints as well."""
        self._orders.clear()
        self._feed.hints = Hints.PASSED

    @property
    def changes(self) -> FaultyFeed:
        return self._feed

    @property
    def secret(self) -> bytes:
        return self._store.secret

    async def insert(
        self,
        operation: Operation,
        request: Payload,
        *,
        max_pending: int | None = None,
        max_pending_in_method: int | None = None,
    ) -> Inserted:
        return await self._call(
            "insert",
            lambda: self._store.insert(
                operation,
                request,
                max_pending=max_pending,
                max_pending_in_method=max_pending_in_method,
            ),
        )

    async def redrive(
        self,
        name: str,
        operation_id: str,
        *,
        again: bool = True,
        max_pending: int | None = None,
        max_pending_in_methods: Mapping[str, int] | None = None,
    ) -> Inserted:
        return await self._call(
            "redrive",
            lambda: self._store.redrive(
                name,
                operation_id,
                again=again,
                max_pending=max_pending,
                max_pending_in_methods=max_pending_in_methods,
            ),
        )

    async def get(self, name: str) -> Operation:
        return await self._call("get", lambda: self._store.get(name))

    async def get_many(self, names: Collection[str]) -> Mapping[str, Operation]:
        return await self._call("get_many", lambda: self._store.get_many(names))

    async def list_page(self, query: ListQuery) -> Sequence[Operation]:
        return await self._call("list_page", lambda: self._store.list_page(query))

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
        return await self._call(
            "claim",
            lambda: self._store.claim(
                worker,
                slots,
                limit,
                lease,
                suspects=suspects,
                distrust=distrust,
                max_running=max_running,
            ),
        )

    async def renew(self, leases: Collection[Lease], duration: timedelta) -> Renewal:
        return await self._call("renew", lambda: self._store.renew(leases, duration))

    def renew_from_thread(self, leases: Collection[Lease], duration: timedelta) -> Renewal:
        return self._store.renew_from_thread(leases, duration)

    async def record_progress(
        self, lease: Lease, progress: Progress | None, metadata: Payload
    ) -> Operation:
        return await self._call(
            "record_progress", lambda: self._store.record_progress(lease, progress, metadata)
        )

    async def record_step(self, lease: Lease, key: str, result: Payload) -> None:
        await self._call("record_step", lambda: self._store.record_step(lease, key, result))

    async def steps(self, name: str) -> Mapping[str, Payload]:
        return await self._call("steps", lambda: self._store.steps(name))

    async def finish(self, lease: Lease, outcome: Outcome) -> Operation:
        return await self._call("finish", lambda: self._store.finish(lease, outcome))

    async def request_cancel(self, name: str) -> Operation:
        return await self._call("request_cancel", lambda: self._store.request_cancel(name))

    async def delete(self, name: str) -> None:
        await self._call("delete", lambda: self._store.delete(name))

    async def expire(self, limit: int) -> int:
        return await self._call("expire", lambda: self._store.expire(limit))

    async def reap(self, limit: int, *, distrust: timedelta = timedelta()) -> int:
        return await self._call("reap", lambda: self._store.reap(limit, distrust=distrust))

    async def attempts(self, name: str) -> Sequence[Attempt]:
        return await self._call("attempts", lambda: self._store.attempts(name))

    async def stats(self) -> Sequence[QueueStats]:
        return await self._call("stats", self._store.stats)

    async def _call(self, method: str, call: Callable[[], Awaitable[T]]) -> T:
        self.calls[method] += 1
        fault = self._fault_for(method)
        if fault.delay_before:
            await self._clock.sleep(fault.delay_before)
        if fault.fails is Moment.BEFORE:
            raise fault.error()
        result = await call()
        if fault.delay_after:
            await self._clock.sleep(fault.delay_after)
        if fault.fails is Moment.AFTER:
            raise fault.error()
        return result

    def _fault_for(self, method: str) -> Fault:
        for order in self._orders:
            if order.take(method):
                return order.fault
        return self.plan(method) if self.plan is not None else NO_FAULT
