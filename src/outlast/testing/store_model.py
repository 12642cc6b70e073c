"""What a store holds, in the simplest way: dictionaries and the pure transitions."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

from outlast.domain import transitions
from outlast.domain.errors import (
    ExclusiveConflictError,
    OutlastError,
    QueueFullError,
    RequestIdReusedError,
)
from outlast.domain.listing import ListQuery
from outlast.domain.operation import Attempt, Operation, State
from outlast.domain.status import Payload
from outlast.domain.trial import is_suspect
from outlast.ports import QueueStats


class StoreModel:
    """Every operation that was ever inserted, until it is forgotten."""

    def __init__(self) -> None:
        self.records: dict[str, Operation] = {}
        self.requests: dict[str, Payload] = {}
        self.steps: dict[str, dict[str, Payload]] = {}
        self.past_attempts: dict[str, list[Attempt]] = {}

    def visible(self, now: datetime) -> dict[str, Operation]:
        """Return what readers see."""
        return {n: it for n, it in self.records.items() if transitions.visible(it, now)}

    def expired(self, now: datetime) -> set[str]:
        """Return the names of what waits to be swept."""
        return {name for name, it in self.records.items() if transitions.expired(it, now)}

    def ready(
        self, methods: Iterable[str], now: datetime, *, suspects: bool, lost_by: datetime
    ) -> dict[str, Operation]:
        """Return what a worker may take, hidden or not."""
        return {
            name: it
            for name, it in self.records.items()
            if it.method in methods
            and it.ready_time is not None
            and it.ready_time <= now
            and (suspects or not is_suspect(it))
            and (it.state is State.PENDING or it.ready_time <= lost_by)
        }

    def running(self, method: str) -> int:
        """Return how many operations of a method are RUNNING, hidden or not."""
        return sum(
            it.state is State.RUNNING and it.method == method for it in self.records.values()
        )

    def full(self, limits: Mapping[str, int], methods: Collection[str]) -> frozenset[str]:
        """Return those of some methods of which as many run as may."""
        return frozenset(
            it for it, limit in limits.items() if it in methods and self.running(it) >= limit
        )

    def next_ready_time(
        self,
        methods: Iterable[str],
        now: datetime,
        *,
        suspects: bool,
        lost_by: datetime,
        full: Collection[str] = (),
    ) -> datetime | None:
        """Return when the first operation of some methods becomes ready, or became.

        Of methods that are `full` only what runs matters.
        """
        times = (
            it.ready_time
            for it in self.records.values()
            if it.method in methods
            and it.ready_time is not None
            and (suspects or not is_suspect(it))
            and (it.state is State.PENDING or not lost_by < it.ready_time <= now)
            and (it.state is State.RUNNING or it.method not in full)
        )
        return min(times, default=None)

    def same_request(self, operation: Operation, now: datetime) -> Operation | None:
        """Return the visible operation that has the request_id of another one."""
        if not operation.request_id:
            return None
        key = _request_key(operation)
        matches = (it for it in self.visible(now).values() if _request_key(it) == key)
        return next(matches, None)

    def expired_with_request_id_of(self, operation: Operation, now: datetime) -> list[Operation]:
        """Return what is not swept yet and had the request_id of another operation."""
        if not operation.request_id:
            return []
        key = _request_key(operation)
        return [
            it
            for it in self.records.values()
            if transitions.expired(it, now) and _request_key(it) == key
        ]

    def holder(self, exclusive_key: str) -> Operation | None:
        """Return the operation that keeps others of the same exclusive_key out."""
        if not exclusive_key:
            return None
        unfinished = (it for it in self.records.values() if not it.done)
        return next((it for it in unfinished if it.exclusive_key == exclusive_key), None)

    def redrive_of(self, name: str, now: datetime, *, done: bool) -> Operation | None:
        """Return the visible redrive of an operation that makes another one needless."""
        redrives = [
            it
            for it in self.visible(now).values()
            if it.retried_from == name and (done or not it.done)
        ]
        redrives.sort(key=lambda it: (it.done, now - it.create_time, it.name))
        return next(iter(redrives), None)

    def pending(self, method: str | None = None) -> int:
        """Return how many operations are PENDING, hidden or not, of one method or in all."""
        return sum(
            it.state is State.PENDING and method in {None, it.method}
            for it in self.records.values()
        )

    def refusals(
        self,
        operation: Operation,
        existing: Operation | None,
        *,
        max_pending: int | None = None,
        max_pending_in_method: int | None = None,
    ) -> set[type[OutlastError]]:
        """Return the errors of which an insert must raise one, if there are any."""
        if existing is not None:
            same = existing.request_digest == operation.request_digest
            return set() if same else {RequestIdReusedError}
        found: set[type[OutlastError]] = set()
        if self.holder(operation.exclusive_key) is not None:
            found.add(ExclusiveConflictError)
        for limit, method in ((max_pending, None), (max_pending_in_method, operation.method)):
            if limit is not None and self.pending(method) >= limit:
                found.add(QueueFullError)
        return found

    def page(self, query: ListQuery, now: datetime) -> list[Operation]:
        """Return everything that following the cursors of a query from its start meets."""
        matches = [
            it
            for it in self.visible(now).values()
            if query.parent in {None, it.parent}
            and query.principal in {None, it.principal}
            and query.conditions.accept(it)
        ]
        matches.sort(key=lambda it: it.name)
        matches.sort(key=lambda it: it.create_time, reverse=True)
        return matches

    def attempts(self, operation: Operation) -> list[Attempt]:
        """Return the attempts of an operation."""
        past = self.past_attempts.get(operation.name, [])
        current = transitions.current_attempt(operation)
        if current is None or current.epoch in {it.epoch for it in past}:
            return past
        return [*past, current]

    def stats(self, now: datetime) -> list[QueueStats]:
        """Return the figures of the methods that have something to tell."""
        methods = sorted({it.method for it in self.records.values()})
        figures = (self._figures(method, now) for method in methods)
        return [it for it in figures if it != QueueStats(it.method)]

    def _figures(self, method: str, now: datetime) -> QueueStats:
        unfinished = [it for it in self.records.values() if it.method == method and not it.done]
        ready = self.ready([method], now, suspects=True, lost_by=now)
        states = [it.state for it in unfinished if it.name not in ready]
        visible = self.visible(now).values()
        first = min((it.ready_time or now for it in ready.values()), default=None)
        return QueueStats(
            method,
            ready=len(ready),
            delayed=states.count(State.PENDING),
            running=states.count(State.RUNNING),
            dead_letters=sum(it.dead_letter for it in visible if it.method == method),
            oldest_ready_age=None if first is None else now - first,
        )

    def insert(self, operation: Operation, request: Payload) -> None:
        """Add an operation."""
        self.records[operation.name] = operation
        self.requests[operation.name] = request

    def replace(self, after: Operation) -> None:
        """Write the next state of an operation."""
        ended = transitions.ended_attempt(self.records[after.name], after)
        if ended is not None:
            self.past_attempts.setdefault(after.name, []).append(ended)
        self.records[after.name] = after
        if after.deleted and after.done:
            self.forget(after.name)

    def forget(self, name: str) -> None:
        """Drop an operation with all it owns."""
        for owned in (self.records, self.requests, self.steps, self.past_attempts):
            owned.pop(name, None)


def _request_key(operation: Operation) -> tuple[str, str, str, str]:
    return operation.principal, operation.parent, operation.method, operation.request_id
