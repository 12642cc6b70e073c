"""The writes of the SQLite store."""

import logging
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar, Self

from outlast.domain import transitions
from outlast.domain.errors import (
    ExclusiveConflictError,
    LeaseLostError,
    OperationNotFoundError,
    QueueFullError,
    RequestIdReusedError,
)
from outlast.domain.operation import Claim, Lease, Operation
from outlast.domain.status import Payload
from outlast.domain.trial import SUSPECT_FROM
from outlast.ports import Claims, Inserted, Renewal
from outlast.stores.changeset import Stored
from outlast.stores.lost_leases import LostBy
from outlast.stores.rows import (
    Row,
    all_values,
    changing_values,
    from_micros,
    operation_from_row,
    to_micros,
)
from outlast.stores.sqlite import statements
from outlast.stores.sqlite.connection import data_version
from outlast.stores.sqlite.transaction import Command, Transaction

_PUT_OFF = timedelta(hours=1)

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Insert(Command[Inserted]):
    """Keep a new operation."""

    order: ClassVar[int] = 0
    operation: Operation
    request: Payload
    max_pending: int | None
    max_pending_in_method: int | None

    @classmethod
    def prepare(cls, transaction: Transaction, commands: Sequence[Self]) -> None:
        """Insert those that nothing speaks against in few statements."""
        fits = _fits(transaction, [command.max_pending for command in commands], None)
        limits: defaultdict[str, list[int | None]] = defaultdict(list)
        for command in commands:
            limits[command.operation.method].append(command.max_pending_in_method)
        for method, given in limits.items():
            fits &= _fits(transaction, given, method)  # all are counted before one is inserted
        if fits:
            _insert(transaction, commands)

    def run(self, transaction: Transaction) -> Inserted:
        stored = transaction.find(self.operation.name)
        if stored is not None and stored.operation is self.operation:
            return Inserted(self.operation, created=True)
        transaction.load([self.operation.name])
        if (stored := transaction.find(self.operation.name)) is not None:
            return Inserted(stored.operation, created=False)
        if (existing := self._same_request(transaction)) is not None:
            if existing.request_digest != self.operation.request_digest:
                raise RequestIdReusedError(self.operation.request_id)
            return Inserted(existing, created=False)
        require_room(transaction, self.max_pending)
        require_room(transaction, self.max_pending_in_method, self.operation.method)
        _insert(transaction, [self])
        if transaction.find(self.operation.name) is None:
            raise exclusive_conflict(transaction, self.operation.exclusive_key)
        return Inserted(self.operation, created=True)

    def _same_request(self, transaction: Transaction) -> Operation | None:
        """Return the operation that has the request_id; forget it if it has expired."""
        new = self.operation
        if not new.request_id:
            return None
        row = transaction.connection.execute(
            statements.BY_REQUEST, [new.request_id, new.method, new.parent, new.principal]
        ).fetchone()
        if row is None:
            return None
        existing = operation_from_row(row[1:])
        if transitions.expired(existing, transaction.now):
            transaction.connection.execute(statements.FORGET, [row[0]])
            return None
        return existing


def _fits(transaction: Transaction, given: Sequence[int | None], method: str | None) -> bool:
    """Whether so many operations as there are limits can wait without exceeding one."""
    limits = [limit for limit in given if limit is not None]
    return not limits or transaction.pending(max(limits), method) + len(given) <= min(limits)


def require_room(transaction: Transaction, limit: int | None, method: str | None = None) -> None:
    """Raise QueueFullError if as many operations wait as may, of one method or in all."""
    if limit is not None and transaction.pending(limit, method) >= limit:
        raise QueueFullError(limit, method)


def exclusive_conflict(transaction: Transaction, key: str) -> ExclusiveConflictError:
    """Return the error of an operation that another one keeps from being inserted."""
    holder, deleted = transaction.connection.execute(statements.EXCLUSIVE_HOLDER, [key]).fetchone()
    return ExclusiveConflictError(key, holder, deleted=bool(deleted))


def _insert(transaction: Transaction, commands: Sequence[Insert]) -> None:
    """Insert what the unique indexes let in, and take it into the transaction."""
    connection = transaction.connection
    new = {command.operation.name: command for command in commands}
    kept: list[tuple[int, str]] = []
    for batch in statements.batches(list(new.values())):
        rows = [all_values(command.operation) for command in batch]
        sql = statements.insert_operations(len(batch))
        kept.extend(connection.execute(sql, statements.flat(rows)).fetchall())
    requests = [
        (row_id, new[name].request.type_url, new[name].request.value) for row_id, name in kept
    ]
    for requests_batch in statements.batches(requests):
        sql = statements.insert_requests(len(requests_batch))
        connection.execute(sql, statements.flat(requests_batch))
    for row_id, name in kept:
        transaction.inserted(Stored(row_id, new[name].operation))


@dataclass(eq=False, slots=True)
class Update(Command[Operation]):
    """Change one record by a pure function of the record and the time."""

    order: ClassVar[int] = 1
    name: str
    change: Callable[[Operation, datetime], Operation]
    lease: Lease | None = None
    """A worker's write works on hidden records too; it is refused if there is none."""

    @classmethod
    def prepare(cls, transaction: Transaction, commands: Sequence[Self]) -> None:
        transaction.load([command.name for command in commands])

    def run(self, transaction: Transaction) -> Operation:
        stored = self.find(transaction)
        transaction.replace(stored, self.change(stored.operation, transaction.now))
        return stored.operation

    def find(self, transaction: Transaction) -> Stored:
        """Return the record, or say that there is none for this caller."""
        stored = transaction.find(self.name)
        if self.lease is not None:
            if stored is None:
                raise LeaseLostError(self.name, self.lease.epoch)
            return stored
        if stored is None or not transitions.visible(stored.operation, transaction.now):
            raise OperationNotFoundError(self.name)
        return stored


@dataclass(eq=False, slots=True)
class RecordStep(Command[None]):
    """Keep the result of a step."""

    order: ClassVar[int] = 1
    lease: Lease
    key: str
    result: Payload

    @classmethod
    def prepare(cls, transaction: Transaction, commands: Sequence[Self]) -> None:
        transaction.load([command.lease.name for command in commands])

    def run(self, transaction: Transaction) -> None:
        stored = transaction.find(self.lease.name)
        if stored is None:
            raise LeaseLostError(self.lease.name, self.lease.epoch)
        transitions.require_owner(stored.operation, self.lease)
        transaction.connection.execute(
            statements.RECORD_STEP, [stored.id, self.key, self.result.type_url, self.result.value]
        )


@dataclass(eq=False, slots=True)
class Renew(Command[Renewal]):
    """Extend the leases of a worker."""

    order: ClassVar[int] = 2
    leases: Collection[Lease]
    duration: timedelta

    def run(self, transaction: Transaction) -> Renewal:
        transaction.flush()
        until = to_micros(transaction.now + self.duration)
        kept: set[Lease] = set()
        cancelled: set[Lease] = set()
        for batch in statements.batches([(lease.name, lease.epoch) for lease in self.leases]):
            sql = statements.renew_leases(len(batch))
            rows = transaction.connection.execute(sql, [until, *statements.flat(batch)])
            for name, epoch, cancel_requested in rows.fetchall():
                lease = Lease(name, epoch)
                kept.add(lease)
                if cancel_requested:
                    cancelled.add(lease)
        transaction.outdate(lease.name for lease in kept)
        return Renewal(frozenset(self.leases) - kept, frozenset(cancelled))


@dataclass(eq=False, slots=True)
class TakeReady(Command[Claims]):
    """Give ready operations to a worker."""

    order: ClassVar[int] = 3
    worker: str
    slots: Mapping[str, int]
    limit: int
    lease: timedelta
    suspects: int
    lost_by: LostBy

    def run(self, transaction: Transaction) -> Claims:
        transaction.flush()
        free = {method: count for method, count in self.slots.items() if count > 0}
        if not free or self.limit <= 0:
            return Claims([], None)
        claims = self._take(transaction, self._ready(transaction, free))
        transaction.flush()
        given = sum(claim.operation.interruptions >= SUSPECT_FROM for claim in claims)
        sql = statements.next_ready(len(self.slots), suspects=given < self.suspects)
        now, lost_by = to_micros(transaction.now), to_micros(self.lost_by.at(transaction.now))
        parameters = [value for method in self.slots for value in (method, lost_by, now)]
        (moment,) = transaction.connection.execute(sql, parameters).fetchone()
        return Claims(claims, from_micros(moment))

    def _ready(self, transaction: Transaction, free: Mapping[str, int]) -> Sequence[int]:
        """Return the ids of what is ready, the longest ready first, as many as may be given."""
        now, lost_by = to_micros(transaction.now), to_micros(self.lost_by.at(transaction.now))
        parameters: list[object] = []
        for method, count in free.items():
            parameters += [method, now, lost_by, min(count, self.limit)]
        if self.suspects > 0:
            for method in free:
                parameters += [method, now, lost_by, self.suspects]
        limit = self.limit + self.suspects * len(free)
        sql = statements.select_ready(len(free), suspects=self.suspects > 0)
        rows = transaction.connection.execute(sql, [*parameters, limit]).fetchall()
        left, suspects = dict(free), self.suspects
        ids: list[int] = []
        for row_id, _, method, suspect in rows:
            if len(ids) < self.limit and left[method] > 0 and suspects >= suspect:
                ids.append(row_id)
                left[method] -= 1
                suspects -= suspect
        return ids

    def _take(self, transaction: Transaction, ids: Sequence[int]) -> list[Claim]:
        rows: dict[int, Row] = {}
        for batch in statements.batches(ids):
            sql = statements.select_claimed(len(batch))
            for row in transaction.connection.execute(sql, batch).fetchall():
                rows[row[0]] = row
        if len(rows) < len(ids):
            raise sqlite3.DatabaseError("an index names operations that are not there")
        claims: list[Claim] = []
        for row_id in ids:
            claim = self._claim(transaction, rows[row_id])
            if claim is not None:
                claims.append(claim)
        return claims

    def _claim(self, transaction: Transaction, row: Row) -> Claim | None:
        """Claim one operation; None if it has ended instead, or cannot be understood."""
        row_id, type_url, value, *columns = row
        after = _change(
            transaction,
            row_id,
            columns,
            lambda it: transitions.claim(it, self.worker, transaction.now, self.lease),
        )
        if after is None or after.done:
            return None
        return Claim(after, Payload(type_url, value))


@dataclass(eq=False, slots=True)
class Reap(Command[int]):
    """End what is ready and must not run again."""

    order: ClassVar[int] = 3
    limit: int
    lost_by: LostBy

    def run(self, transaction: Transaction) -> int:
        transaction.flush()
        parameters = {
            "now": to_micros(transaction.now),
            "lost_by": to_micros(self.lost_by.at(transaction.now)),
            "limit": self.limit,
        }
        rows = transaction.connection.execute(statements.REAPABLE, parameters).fetchall()
        count = 0
        for row_id, *columns in rows:
            after = _change(
                transaction, row_id, columns, lambda it: transitions.reap(it, transaction.now)
            )
            count += after is not None
        return count


def _change(
    transaction: Transaction,
    row_id: int,
    columns: Sequence[object],
    change: Callable[[Operation], Operation],
) -> Operation | None:
    """Change one operation of many; return its next state, None if it cannot be understood.

    One that cannot must not keep the others from being run: it is put off.
    """
    try:
        stored = Stored(row_id, operation_from_row(columns))
        after = change(stored.operation)
        changing_values(after)  # it can be written
    except (ArithmeticError, LookupError, TypeError, ValueError):
        _log.exception("operation %s cannot be run; it is put off", columns[0])
        until = to_micros(transaction.now + _PUT_OFF)
        transaction.connection.execute(statements.PUT_OFF, [until, row_id])
        return None
    transaction.add(stored)
    transaction.replace(stored, after)
    return after


@dataclass(eq=False, slots=True)
class Expire(Command[int]):
    """Forget expired operations."""

    order: ClassVar[int] = 4
    limit: int

    def run(self, transaction: Transaction) -> int:
        transaction.flush()
        now = to_micros(transaction.now)
        return transaction.connection.execute(statements.FORGET_EXPIRED, [now, self.limit]).rowcount


@dataclass(eq=False, slots=True)
class ReadDataVersion(Command[int]):
    """Return a number that changes when another process has written to the file."""

    order: ClassVar[int] = 5

    def run(self, transaction: Transaction) -> int:
        return data_version(transaction.connection)
