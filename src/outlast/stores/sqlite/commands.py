"""The writes of the SQLite store."""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
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
from outlast.domain.operation import Lease, Operation
from outlast.domain.status import Payload
from outlast.ports import Inserted, Renewal
from outlast.stores.changeset import Stored
from outlast.stores.rows import (
    all_values,
    operation_from_row,
    to_micros,
)
from outlast.stores.sqlite import statements
from outlast.stores.sqlite.connection import data_version
from outlast.stores.sqlite.transaction import Command, Transaction


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
class Expire(Command[int]):
    """Forget expired operations."""

    order: ClassVar[int] = 4
    limit: int

    def run(self, transaction: Transaction) -> int:
        transaction.flush()
        now = to_micros(transaction.now)
        return transaction.connection.execute(statements.FORGET_EXPIRED, [now, self.limit]).rowcount


@dataclass(eq=False, slots=True)
class CatchUp(Command[int]):
    """Take note of what other processes have written, as every transaction does.

    Returns a number that changes when anybody else has written to the file.
    """

    order: ClassVar[int] = 5

    def run(self, transaction: Transaction) -> int:
        return data_version(transaction.connection)
