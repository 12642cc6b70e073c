"""The store itself."""

import secrets
import threading
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Self

from outlast.domain import transitions
from outlast.domain.errors import (
    ExclusiveConflictError,
    LeaseLostError,
    OperationNotFoundError,
    QueueFullError,
    RequestIdReusedError,
)
from outlast.domain.listing import ListQuery
from outlast.domain.operation import Attempt, Claim, Lease, Operation, Progress, State
from outlast.domain.status import Payload
from outlast.domain.transitions import Outcome
from outlast.domain.trial import is_suspect
from outlast.ports import (
    Change,
    ChangeFeed,
    Claims,
    Clock,
    Inserted,
    OperationStore,
    QueueStats,
    Renewal,
)
from outlast.stores.feed import LocalFeed
from outlast.stores.memory.records import Records


class MemoryStore(OperationStore):
    """Keeps operations in the memory of one process.

    Its methods do not await in the middle, which makes them atomic on the event loop
    that calls them. The lock is for `renew_from_thread`.
    """

    durability = "none: lost when the process ends"

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._secret = secrets.token_bytes(32)
        self._changes = LocalFeed()
        self._records = Records()
        self._requests: dict[str, Payload] = {}
        self._steps: dict[str, dict[str, Payload]] = {}
        self._past_attempts: dict[str, list[Attempt]] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, *, clock: Clock) -> AsyncIterator[Self]:
        """Yield an empty store."""
        yield cls(clock)

    @property
    def changes(self) -> ChangeFeed:
        return self._changes

    @property
    def secret(self) -> bytes:
        return self._secret

    async def insert(
        self,
        operation: Operation,
        request: Payload,
        *,
        max_pending: int | None = None,
        max_pending_in_method: int | None = None,
    ) -> Inserted:
        with self._lock:
            existing = self._records.get(operation.name) or self._same_request(operation)
            if existing is not None:
                return Inserted(existing, created=False)
            self._admit(operation, max_pending, max_pending_in_method)
            return self._keep(operation, request)

    async def redrive(
        self,
        name: str,
        operation_id: str,
        *,
        again: bool = True,
        max_pending: int | None = None,
        max_pending_in_methods: Mapping[str, int] | None = None,
    ) -> Inserted:
        with self._lock:
            operation = transitions.redrive(self._visible(name), operation_id, self._clock.now())
            existing = self._records.get(operation.name) or self._redrive_of(name, done=not again)
            if existing is not None:
                return Inserted(existing, created=False)
            in_method = (max_pending_in_methods or {}).get(operation.method)
            self._admit(operation, max_pending, in_method)
            if name in self._steps:
                self._steps[operation.name] = dict(self._steps[name])
            return self._keep(operation, self._requests[name])

    def _redrive_of(self, name: str, *, done: bool) -> Operation | None:
        """Return a visible redrive of an operation: one that is not done, or else the newest."""
        now = self._clock.now()
        redrives = [it for it in self._records.redrives(name) if transitions.visible(it, now)]
        eligible = (it for it in redrives if done or not it.done)
        return min(eligible, key=lambda it: (it.done, now - it.create_time, it.name), default=None)

    def _admit(
        self, operation: Operation, max_pending: int | None, in_method: int | None = None
    ) -> None:
        """Raise unless there is room for an operation, and nobody has what it needs."""
        holder = self._records.holder(operation.exclusive_key)
        if holder is not None:
            raise ExclusiveConflictError(
                operation.exclusive_key, holder.name, deleted=holder.deleted
            )
        if max_pending is not None and self._records.pending() >= max_pending:
            raise QueueFullError(max_pending)
        if in_method is not None and self._records.pending(operation.method) >= in_method:
            raise QueueFullError(in_method, operation.method)

    def _keep(self, operation: Operation, request: Payload) -> Inserted:
        self._requests[operation.name] = request
        self._records.put(operation)
        self._changes.publish([Change.of(operation)])
        return Inserted(operation, created=True)

    def _same_request(self, operation: Operation) -> Operation | None:
        existing = self._records.with_request_id_of(operation)
        if existing is None or not transitions.visible(existing, self._clock.now()):
            return None
        if existing.request_digest != operation.request_digest:
            raise RequestIdReusedError(operation.request_id)
        return existing

    async def get(self, name: str) -> Operation:
        return self._visible(name)

    async def get_many(self, names: Collection[str]) -> Mapping[str, Operation]:
        now = self._clock.now()
        found = ((name, self._records.get(name)) for name in names)
        return {name: it for name, it in found if it is not None and transitions.visible(it, now)}

    async def list_page(self, query: ListQuery) -> Sequence[Operation]:
        now = self._clock.now()
        page: list[Operation] = []
        for operation in self._records.newest_first(query.parent, query.principal, query.after):
            if len(page) >= query.limit:
                break
            if transitions.visible(operation, now) and query.conditions.accept(operation):
                page.append(operation)
        return page

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
        with self._lock:
            now = self._clock.now()
            lost_by = now - distrust
            free = {method: count for method, count in slots.items() if count > 0}
            limits = {it: limit for it, limit in (max_running or {}).items() if it in slots}
            claims: list[Claim] = []
            changes: list[Change] = []
            while len(claims) < limit:
                operation = self._records.longest_ready(
                    free, now, suspects=suspects > 0, lost_by=lost_by, full=self._full(limits)
                )
                if operation is None:
                    break
                suspect = is_suspect(operation)
                after = transitions.claim(operation, worker, now, lease)
                changes.append(self._replace(operation, after))
                if not after.done:
                    claims.append(Claim(after, self._requests[after.name]))
                    suspects -= suspect
                    free[after.method] -= 1
                    if free[after.method] == 0:
                        del free[after.method]
            self._changes.publish(changes)
            full = self._full(limits)
            next_ready_time = self._records.next_ready_time(
                slots, now, suspects=suspects > 0, lost_by=lost_by, full=full
            )
            return Claims(claims, next_ready_time, held_back=full)

    def _full(self, limits: Mapping[str, int]) -> frozenset[str]:
        """Return the methods of which as many operations run as may."""
        return frozenset(it for it, limit in limits.items() if self._records.running(it) >= limit)

    async def renew(self, leases: Collection[Lease], duration: timedelta) -> Renewal:
        return self.renew_from_thread(leases, duration)

    def renew_from_thread(self, leases: Collection[Lease], duration: timedelta) -> Renewal:
        with self._lock:
            return self._renew(leases, duration)

    def _renew(self, leases: Collection[Lease], duration: timedelta) -> Renewal:
        now = self._clock.now()
        lost: set[Lease] = set()
        cancel_requested: set[Lease] = set()
        for lease in leases:
            try:
                operation = transitions.renew(self._leased(lease), lease, now, duration)
            except LeaseLostError:
                lost.add(lease)
                continue
            self._records.put(operation)
            if operation.cancel_requested_time is not None:
                cancel_requested.add(lease)
        return Renewal(frozenset(lost), frozenset(cancel_requested))

    async def record_progress(
        self, lease: Lease, progress: Progress | None, metadata: Payload
    ) -> Operation:
        with self._lock:
            operation = self._leased(lease)
            after = transitions.report(operation, lease, progress, metadata, self._clock.now())
            return self._write(operation, after)

    async def record_step(self, lease: Lease, key: str, result: Payload) -> None:
        transitions.require_owner(self._leased(lease), lease)
        self._steps.setdefault(lease.name, {}).setdefault(key, result)

    async def steps(self, name: str) -> Mapping[str, Payload]:
        return dict(self._steps.get(name, {}))

    async def finish(self, lease: Lease, outcome: Outcome) -> Operation:
        with self._lock:
            operation = self._leased(lease)
            after = transitions.finish(operation, lease, outcome, self._clock.now())
            return self._write(operation, after)

    async def request_cancel(self, name: str) -> Operation:
        with self._lock:
            operation = self._visible(name)
            after = transitions.request_cancel(operation, self._clock.now())
            return operation if after is operation else self._write(operation, after)

    async def delete(self, name: str) -> None:
        with self._lock:
            operation = self._visible(name)
            self._write(operation, transitions.delete(operation))

    async def expire(self, limit: int) -> int:
        with self._lock:
            now = self._clock.now()
            count = 0
            while count < limit:
                operation = self._records.first_to_expire()
                if operation is None or not transitions.expired(operation, now):
                    break
                self._forget(operation.name)
                count += 1
            return count

    async def reap(self, limit: int, *, distrust: timedelta = timedelta()) -> int:
        with self._lock:
            now = self._clock.now()
            changes: list[Change] = []
            for operation in self._records.ready_to_end(now, lost_by=now - distrust):
                after = transitions.reap(operation, now)
                if after.done and len(changes) < limit:
                    changes.append(self._replace(operation, after))
            self._changes.publish(changes)
            return len(changes)

    async def attempts(self, name: str) -> Sequence[Attempt]:
        operation = self._visible(name)
        return transitions.attempts(tuple(self._past_attempts.get(name, ())), operation)

    async def stats(self) -> Sequence[QueueStats]:
        now = self._clock.now()
        return [self._count(method, now) for method in self._records.methods()]

    def _visible(self, name: str) -> Operation:
        operation = self._records.get(name)
        if operation is None or not transitions.visible(operation, self._clock.now()):
            raise OperationNotFoundError(name)
        return operation

    def _leased(self, lease: Lease) -> Operation:
        operation = self._records.get(lease.name)
        if operation is None:
            raise LeaseLostError(lease.name, lease.epoch)
        return operation

    def _count(self, method: str, now: datetime) -> QueueStats:
        unfinished = self._records.unfinished(method)
        times = [(it.ready_time or now, it.state) for it in unfinished]
        ready = [time for time, _ in times if time <= now]
        waiting = [state for time, state in times if time > now]
        dead_letters = self._records.dead_letters(method)
        return QueueStats(
            method,
            ready=len(ready),
            delayed=waiting.count(State.PENDING),
            running=waiting.count(State.RUNNING),
            dead_letters=sum(transitions.visible(it, now) for it in dead_letters),
            oldest_ready_age=now - min(ready) if ready else None,
        )

    def _write(self, before: Operation, after: Operation) -> Operation:
        self._changes.publish([self._replace(before, after)])
        return after

    def _replace(self, before: Operation, after: Operation) -> Change:
        ended = transitions.ended_attempt(before, after)
        if ended is not None:
            self._past_attempts.setdefault(after.name, []).append(ended)
        if after.deleted and after.done:
            self._forget(after.name)
        else:
            self._records.put(after)
        return Change.of(after)

    def _forget(self, name: str) -> None:
        self._records.remove(name)
        del self._requests[name]
        self._steps.pop(name, None)
        self._past_attempts.pop(name, None)
