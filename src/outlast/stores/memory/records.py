"""The records of a `MemoryStore`, and the indexes that keep it from scanning them."""

import heapq
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

from outlast.domain.listing import Cursor
from outlast.domain.operation import Operation, State
from outlast.domain.trial import is_suspect

_Moment = tuple[datetime, str]
"""When something is due for the operation of a name."""
_List = tuple[str | None, str | None]
"""A parent, or None for the dead letters of all; and a principal, or None for all."""


class _Descending(str):
    """A string that sorts the other way round."""

    __slots__ = ()

    def __lt__(self, other: str) -> bool:
        return str.__gt__(self, other)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What decides whether a claim may be given an operation that is ready."""

    suspect: bool
    leased: bool

    @classmethod
    def of(cls, operation: Operation) -> Self:
        return cls(is_suspect(operation), operation.state is State.RUNNING)


_KINDS = [_Kind(suspect, leased) for suspect in (False, True) for leased in (False, True)]


@dataclass(slots=True)
class _Queue:
    """What one method has to do, and what it failed to do."""

    moments: dict[_Kind, list[_Moment]] = field(
        default_factory=lambda: {kind: [] for kind in _KINDS}
    )
    """Heaps of ready times. Those that a record no longer has are dropped when met."""
    unfinished: set[str] = field(default_factory=set)
    dead_letters: set[str] = field(default_factory=set)
    pending: int = 0
    """How many are PENDING."""
    running: int = 0
    """How many are RUNNING."""


class Records:
    """Every record by name, by request_id, by exclusive key, by age and by what is due next."""

    def __init__(self) -> None:
        self._by_name: dict[str, Operation] = {}
        self._by_request: dict[tuple[str, str, str, str], str] = {}
        self._holders: dict[str, str] = {}
        self._redrives: defaultdict[str, set[str]] = defaultdict(set)
        self._by_age: defaultdict[_List, list[tuple[datetime, _Descending]]] = defaultdict(list)
        self._queues: defaultdict[str, _Queue] = defaultdict(_Queue)
        self._expiries: list[_Moment] = []
        self._ending: set[str] = set()
        """What is not done and has a deadline, or was asked to stop."""

    def get(self, name: str) -> Operation | None:
        """Return a record, hidden or not."""
        return self._by_name.get(name)

    def with_request_id_of(self, operation: Operation) -> Operation | None:
        """Return the record that was inserted last with the request_id of another one."""
        return self._by_name.get(self._by_request.get(_request_key(operation), ""))

    def holder(self, exclusive_key: str) -> Operation | None:
        """Return the operation that keeps others from starting."""
        return self._by_name.get(self._holders.get(exclusive_key, ""))

    def redrives(self, name: str) -> list[Operation]:
        """Return what was retried from an operation."""
        return [self._by_name[redrive] for redrive in self._redrives.get(name, ())]

    def newest_first(
        self, parent: str | None, principal: str | None, after: Cursor | None
    ) -> Iterator[Operation]:
        """Yield what is not deleted, in the order in which it is listed, from a cursor on.

        Without a parent, the dead letters of all.
        """
        places = self._by_age.get((parent, principal), [])
        end = len(places)
        if after is not None:
            end = bisect_left(places, (after.create_time, _Descending(after.name)))
        for index in range(end - 1, -1, -1):
            yield self._by_name[places[index][1]]

    def longest_ready(
        self,
        methods: Iterable[str],
        now: datetime,
        *,
        suspects: bool,
        lost_by: datetime,
        full: Collection[str] = (),
    ) -> Operation | None:
        """Return what has been ready the longest and may be given, None if nothing is.

        Of methods that are `full` it may be what has lost its lease.
        """
        first = self._first(methods, now, suspects, lost_by, full)
        return None if first is None or first[0] > now else self._by_name[first[1]]

    def next_ready_time(
        self,
        methods: Iterable[str],
        now: datetime,
        *,
        suspects: bool,
        lost_by: datetime,
        full: Collection[str] = (),
    ) -> datetime | None:
        """Return when the first operation of some methods becomes ready, or became."""
        first = self._first(methods, now, suspects, lost_by, full)
        return None if first is None else first[0]

    def ready_to_end(self, now: datetime, *, lost_by: datetime) -> list[Operation]:
        """Return what is ready and has a deadline, or was asked to stop, by name."""
        return [
            operation
            for operation in map(self._by_name.__getitem__, sorted(self._ending))
            if operation.ready_time is not None
            and operation.ready_time <= (now if operation.state is State.PENDING else lost_by)
        ]

    def first_to_expire(self) -> Operation | None:
        """Return the operation that expires first, None if none will."""
        while self._expiries:
            operation = self._by_name.get(self._expiries[0][1])
            if operation is not None:
                return operation
            heapq.heappop(self._expiries)
        return None

    def methods(self) -> list[str]:
        """Return every method that an operation was of, ordered."""
        return sorted(self._queues)

    def pending(self, method: str | None = None) -> int:
        """Return how many operations are PENDING, of one method or in all."""
        if method is not None:
            return self._queues[method].pending
        return sum(queue.pending for queue in self._queues.values())

    def running(self, method: str) -> int:
        """Return how many operations of a method are RUNNING, whatever their leases."""
        return self._queues[method].running

    def unfinished(self, method: str) -> list[Operation]:
        """Return what is not done, hidden or not."""
        return [self._by_name[name] for name in self._queues[method].unfinished]

    def dead_letters(self, method: str) -> list[Operation]:
        """Return the dead letters, expired or not."""
        return [self._by_name[name] for name in self._queues[method].dead_letters]

    def put(self, operation: Operation) -> None:
        """Add a record, or replace the one of the same name."""
        before = self._by_name.get(operation.name)
        self._by_name[operation.name] = operation
        if before is None:
            self._show(operation)
            if operation.retried_from:
                self._redrives[operation.retried_from].add(operation.name)
        elif operation.deleted and not before.deleted:
            self._hide(before)
        elif operation.dead_letter and not before.dead_letter:
            self._list(operation, None)
        queue = self._queues[operation.method]
        _schedule(operation, before, queue)
        queue.pending += _is(State.PENDING, operation) - _is(State.PENDING, before)
        queue.running += _is(State.RUNNING, operation) - _is(State.RUNNING, before)
        if operation.done:
            self._release(operation)
            if operation.expire_time is not None:
                heapq.heappush(self._expiries, (operation.expire_time, operation.name))
            if operation.dead_letter:
                queue.dead_letters.add(operation.name)
        else:
            queue.unfinished.add(operation.name)
            if operation.deadline is not None or operation.cancel_requested_time is not None:
                self._ending.add(operation.name)
            if operation.exclusive_key:
                self._holders[operation.exclusive_key] = operation.name

    def remove(self, name: str) -> None:
        """Forget a record."""
        operation = self._by_name.pop(name)
        if not operation.deleted:
            self._hide(operation)
        self._release(operation)
        self._forget_redrive(operation)
        queue = self._queues[operation.method]
        queue.dead_letters.discard(name)
        queue.pending -= _is(State.PENDING, operation)
        queue.running -= _is(State.RUNNING, operation)

    def _show(self, operation: Operation) -> None:
        if operation.request_id:
            self._by_request[_request_key(operation)] = operation.name
        self._list(operation, operation.parent)

    def _hide(self, operation: Operation) -> None:
        key = _request_key(operation)
        if self._by_request.get(key) == operation.name:
            del self._by_request[key]
        self._unlist(operation, operation.parent)
        if operation.dead_letter:
            self._unlist(operation, None)

    def _list(self, operation: Operation, parent: str | None) -> None:
        for principal in (None, operation.principal):
            insort(self._by_age[parent, principal], _place(operation))

    def _unlist(self, operation: Operation, parent: str | None) -> None:
        for principal in (None, operation.principal):
            places = self._by_age[parent, principal]
            del places[bisect_left(places, _place(operation))]
            if not places:
                del self._by_age[parent, principal]

    def _release(self, operation: Operation) -> None:
        self._queues[operation.method].unfinished.discard(operation.name)
        self._ending.discard(operation.name)
        if self._holders.get(operation.exclusive_key) == operation.name:
            del self._holders[operation.exclusive_key]

    def _forget_redrive(self, operation: Operation) -> None:
        if operation.retried_from:
            redrives = self._redrives[operation.retried_from]
            redrives.discard(operation.name)
            if not redrives:
                del self._redrives[operation.retried_from]

    def _first(
        self,
        methods: Iterable[str],
        now: datetime,
        suspects: bool,
        lost_by: datetime,
        full: Collection[str],
    ) -> _Moment | None:
        """Return what is ready first, leaving out leases that ran out after `lost_by`."""
        firsts: list[_Moment | None] = []
        for method in methods:
            if method not in self._queues:
                continue
            queue = self._queues[method]
            for kind in _KINDS:
                if (suspects or not kind.suspect) and (kind.leased or method not in full):
                    first = self._first_of(queue.moments[kind], kind)
                    if first is not None and kind.leased and lost_by < first[0] <= now:
                        first = self._first_later(queue.moments[kind], kind, now)
                    firsts.append(first)
        return min((first for first in firsts if first is not None), default=None)

    def _first_of(self, moments: list[_Moment], kind: _Kind) -> _Moment | None:
        while moments:
            if self._holds(moments[0], kind):
                return moments[0]
            heapq.heappop(moments)
        return None

    def _first_later(self, moments: list[_Moment], kind: _Kind, now: datetime) -> _Moment | None:
        later = (it for it in moments if it[0] > now and self._holds(it, kind))
        return min(later, default=None)

    def _holds(self, moment: _Moment, kind: _Kind) -> bool:
        """Whether a record still becomes ready at a moment."""
        operation = self._by_name.get(moment[1])
        return (
            operation is not None
            and operation.ready_time == moment[0]
            and _Kind.of(operation) == kind
        )


def _request_key(operation: Operation) -> tuple[str, str, str, str]:
    return operation.principal, operation.parent, operation.method, operation.request_id


def _schedule(operation: Operation, before: Operation | None, queue: _Queue) -> None:
    """Note when an operation becomes ready, if that is new."""
    if operation.ready_time is None:
        return
    kind = _Kind.of(operation)
    if before is None or (operation.ready_time, kind) != (before.ready_time, _Kind.of(before)):
        heapq.heappush(queue.moments[kind], (operation.ready_time, operation.name))


def _place(operation: Operation) -> tuple[datetime, _Descending]:
    return operation.create_time, _Descending(operation.name)


def _is(state: State, operation: Operation | None) -> bool:
    return operation is not None and operation.state is state
