"""The way between a worker and the store: slow, lossy, and not there when one of them is not."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from outlast.domain.errors import OutlastError, StoreUnavailableError
from outlast.domain.listing import ListQuery
from outlast.domain.operation import Attempt, Lease, Operation, Progress
from outlast.domain.status import Payload
from outlast.domain.transitions import Outcome
from outlast.ports import (
    Change,
    ChangeFeed,
    Changes,
    Claims,
    Inserted,
    OperationStore,
    QueueStats,
    Renewal,
)
from outlast.testing.faults import Moment
from outlast.testing.simulation.loop import Host, SimulatedLoop
from outlast.testing.simulation.plan import Faults

P = ParamSpec("P")
T = TypeVar("T")


class GoneError(BaseException):
    """Whoever calls is on a host that is dead."""


@dataclass(frozen=True, slots=True)
class Commit:
    """A call that the store has answered, and the records that it wrote."""

    host: Host
    method: str
    arguments: tuple[Any, ...]
    result: Any
    """What was returned, or the OutlastError that was raised."""
    records: Sequence[Operation]

    @property
    def succeeded(self) -> bool:
        """Whether something was returned."""
        return not isinstance(self.result, OutlastError)


class Observer(Protocol):
    """Sees what is committed, and what a worker learns of its leases."""

    def committed(self, commit: Commit) -> None:
        """Take note of a call, right after the store has answered it."""

    def holds(self, host: Host, lease: Lease, until: float) -> None:
        """Take note that a worker has learnt that a lease is its own."""


class SharedStore:
    """The one store: it answers one call after the other, and tells everybody of changes.

    The store's methods must not wait for anything, and its feed must tell of changes,
    with their records, before a method returns.
    """

    def __init__(self, store: OperationStore, observer: Observer) -> None:
        self.store = store
        self.connections: list[Connection] = []
        self._observer = observer
        self._heard: list[Change] = []
        store.changes.subscribe(self._hear)

    def perform(
        self, host: Host, method: str, call: Callable[[], Awaitable[T]], arguments: tuple[Any, ...]
    ) -> T | OutlastError:
        """Have the store do something; return what it returns or raises."""
        result: T | OutlastError
        try:
            result = at_once(call())
        except OutlastError as error:
            result = error
        heard, self._heard = self._heard, []
        records = [change.record for change in heard if change.record is not None]
        self._observer.committed(Commit(host, method, arguments, result, records))
        if heard:
            for connection in self.connections:
                connection.changes.publish(heard)
        return result

    def _hear(self, changes: Changes) -> None:
        self._heard.extend(changes or ())


def at_once(work: Awaitable[T]) -> T:
    """Return what a coroutine returns that waits for nothing."""
    steps = work.__await__()
    try:
        next(steps)
    except StopIteration as end:
        return cast("T", end.value)
    raise RuntimeError("the store waits for something; a simulated one must not")


@dataclass(frozen=True, slots=True)
class _Fate:
    """What becomes of one call."""

    there: float
    """Seconds until the store is asked."""
    back: float
    """Seconds until its answer arrives."""
    fails: Moment | None
    crashes: Moment | None
    """When the worker dies: before it asks, or before it hears the answer."""


class HintFeed(ChangeFeed):
    """The hints that one worker gets: late, doubled, out of order, vague, or not at all."""

    def __init__(
        self, loop: SimulatedLoop, host: Host, chance: random.Random, faults: Faults
    ) -> None:
        self.faults = faults
        self._loop = loop
        self._host = host
        self._chance = chance
        self._listeners: dict[object, Callable[[Changes], None]] = {}

    def subscribe(self, listener: Callable[[Changes], None]) -> Callable[[], None]:
        subscription = object()
        self._listeners[subscription] = listener

        def unsubscribe() -> None:
            self._listeners.pop(subscription, None)

        return unsubscribe

    def publish(self, changes: Sequence[Change]) -> None:
        """Send hints of changes on their way."""
        if self._hits(self.faults.hint_lost):
            return
        hints: Changes = changes
        if self._hits(self.faults.hint_vague):
            hints = None
        elif self._hits(self.faults.hint_bare):
            hints = [replace(change, record=None) for change in changes]
        for _ in range(2 if self._hits(self.faults.hint_doubled) else 1):
            delay = self.faults.hint_slowest * self._chance.random()
            self._loop.call_later(delay, self._deliver, hints, context=self._host.context)

    def _deliver(self, hints: Changes) -> None:
        for listener in tuple(self._listeners.values()):
            listener(hints)

    def _hits(self, probability: float) -> bool:
        return self._chance.random() < probability


class Connection(OperationStore):
    """One worker's way to the shared store.

    A call that was sent is answered whether or not somebody still waits: who is
    cancelled, paused or dead meanwhile does not hear of it, but it is done.
    """

    durability = "as long as the simulation lasts"

    def __init__(
        self,
        shared: SharedStore,
        *,
        loop: SimulatedLoop,
        host: Host,
        chance: random.Random,
        observer: Observer,
        lease_seconds: float,
        crash: Callable[[str], None],
    ) -> None:
        self.faults = Faults()
        self.away_until = 0.0
        """Until when, in the loop's seconds, every call fails."""
        self.failures: list[float] = []
        """When calls have failed, in the loop's seconds."""
        self._shared = shared
        self._store = shared.store
        self._loop = loop
        self._host = host
        self._chance = chance
        self._observer = observer
        self._lease_seconds = lease_seconds
        self._crash = crash
        self._feed = HintFeed(loop, host, chance, self.faults)
        shared.connections.append(self)

    def face(self, faults: Faults) -> None:
        """Change the weather."""
        self.faults = self._feed.faults = faults

    def close(self) -> None:
        """Get no more hints."""
        self._shared.connections.remove(self)

    @property
    def changes(self) -> HintFeed:
        return self._feed

    @property
    def secret(self) -> bytes:
        return self._store.secret

    async def insert(self, operation: Operation, request: Payload, **limits: Any) -> Inserted:
        return await self._call("insert", self._store.insert, operation, request, **limits)

    async def redrive(self, name: str, operation_id: str, **options: Any) -> Inserted:
        return await self._call("redrive", self._store.redrive, name, operation_id, **options)

    async def get(self, name: str) -> Operation:
        return await self._call("get", self._store.get, name)

    async def get_many(self, names: Collection[str]) -> Mapping[str, Operation]:
        return await self._call("get_many", self._store.get_many, tuple(names))

    async def list_page(self, query: ListQuery) -> Sequence[Operation]:
        return await self._call("list_page", self._store.list_page, query)

    async def claim(
        self,
        worker: str,
        slots: Mapping[str, int],
        limit: int,
        lease: timedelta,
        **options: Any,
    ) -> Claims:
        until = self._loop.time() + lease.total_seconds()
        call = self._store.claim
        claims = await self._call("claim", call, worker, dict(slots), limit, lease, **options)
        for claim in claims.claims:
            self._observer.holds(self._host, claim.lease, until)
        return claims

    async def renew(self, leases: Collection[Lease], duration: timedelta) -> Renewal:
        until = self._loop.time() + duration.total_seconds()
        renewal = await self._call("renew", self._store.renew, tuple(leases), duration)
        for lease in leases:
            if lease not in renewal.lost:
                self._observer.holds(self._host, lease, until)
        return renewal

    async def record_progress(
        self, lease: Lease, progress: Progress | None, metadata: Payload
    ) -> Operation:
        call = self._store.record_progress
        return await self._call("record_progress", call, lease, progress, metadata)

    async def record_step(self, lease: Lease, key: str, result: Payload) -> None:
        await self._call("record_step", self._store.record_step, lease, key, result)

    async def steps(self, name: str) -> Mapping[str, Payload]:
        return await self._call("steps", self._store.steps, name)

    async def finish(self, lease: Lease, outcome: Outcome) -> Operation:
        return await self._call("finish", self._store.finish, lease, outcome)

    async def request_cancel(self, name: str) -> Operation:
        return await self._call("request_cancel", self._store.request_cancel, name)

    async def delete(self, name: str) -> None:
        await self._call("delete", self._store.delete, name)

    async def expire(self, limit: int) -> int:
        return await self._call("expire", self._store.expire, limit)

    async def reap(self, limit: int, *, distrust: timedelta = timedelta()) -> int:
        return await self._call("reap", self._store.reap, limit, distrust=distrust)

    async def attempts(self, name: str) -> Sequence[Attempt]:
        return await self._call("attempts", self._store.attempts, name)

    async def stats(self) -> Sequence[QueueStats]:
        return await self._call("stats", self._store.stats)

    async def _call(
        self, method: str, call: Callable[P, Awaitable[T]], *args: P.args, **options: P.kwargs
    ) -> T:
        if not self._host.alive:
            raise GoneError
        fate = self._draw(method)
        reply: asyncio.Future[T | OutlastError] = self._loop.create_future()
        context = self._loop.outside.context

        def arrive() -> None:
            result: T | OutlastError = StoreUnavailableError("the store is away")
            if fate.fails is not Moment.BEFORE:
                answer = self._shared.perform(
                    self._host, method, lambda: call(*args, **options), args
                )
                result = answer if fate.fails is None else result
            if fate.crashes is Moment.AFTER and self._host.alive:
                self._crash(f"before it hears of {method}")
            self._loop.call_later(fate.back, settle, result, context=context)

        def settle(result: T | OutlastError) -> None:
            if self._host.alive and not reply.done():
                reply.set_result(result)

        if fate.crashes is Moment.BEFORE:
            self._crash(f"before it sends {method}")
        else:
            self._loop.call_later(fate.there, arrive, context=context)
        result = await reply
        if isinstance(result, StoreUnavailableError):
            self.failures.append(self._loop.time())
        if isinstance(result, OutlastError):
            raise result
        return result

    def _draw(self, method: str) -> _Fate:
        """Decide what becomes of a call."""
        faults = self.faults
        fails: Moment | None = None
        if self._hits(faults.fails_before) or self._loop.time() < self.away_until:
            fails = Moment.BEFORE
        elif self._hits(faults.fails_after):
            fails = Moment.AFTER
        crashes: Moment | None = None
        if self._hits(faults.crashes):
            crashes = self._chance.choice([Moment.BEFORE, Moment.AFTER])
        lags = [self._lag(method), 0.0]
        self._chance.shuffle(lags)
        return _Fate(self._way() + lags[0], self._way() + lags[1], fails, crashes)

    def _way(self) -> float:
        longest = self.faults.slowest if self._hits(self.faults.slow) else 0.001
        return longest * self._chance.random()

    def _lag(self, method: str) -> float:
        """Return how much longer than usual a call takes that has to do with leases."""
        faults = self.faults
        share = {
            "claim": faults.late_claims,
            "renew": faults.late_renewals,
            "record_progress": faults.late_writes,
            "record_step": faults.late_writes,
            "finish": faults.late_writes,
        }.get(method, 0.0)
        return self._lease_seconds * self._chance.uniform(0.4, 1.5) if self._hits(share) else 0.0

    def _hits(self, probability: float) -> bool:
        return self._chance.random() < probability
