"""The writes of the PostgreSQL store that callers ask for."""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Self

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
from outlast.ports import Inserted
from outlast.stores.changeset import Stored
from outlast.stores.postgres import statements
from outlast.stores.postgres.texts import digest_of, kept, operation_of, row_of
from outlast.stores.postgres.transaction import (
    Command,
    OvertakenError,
    Transaction,
)
from outlast.stores.rows import to_micros


@dataclass(eq=False, slots=True)
class Insert(Command[Inserted]):
    """Keep a new operation."""

    order: ClassVar[int] = 0
    operation: Operation
    request: Payload
    max_pending: int | None
    max_pending_in_method: int | None

    @property
    def size(self) -> int:
        return len(self.request.value) + len(self.operation.metadata.value)

    @classmethod
    async def prepare(cls, transaction: Transaction, commands: Sequence[Self]) -> None:
        """Insert those that nothing speaks against in few statements."""
        fits = await _fits(transaction, [command.max_pending for command in commands], None)
        limits: defaultdict[str, list[int | None]] = defaultdict(list)
        for command in commands:
            limits[command.operation.method].append(command.max_pending_in_method)
        for method, given in limits.items():
            fits &= await _fits(transaction, given, method)
        if fits:
            await _insert(transaction, commands)

    async def run(self, transaction: Transaction) -> Inserted:
        stored = transaction.find(self.operation.name)
        if stored is not None and stored.operation is self.operation:
            return Inserted(self.operation, created=True)
        await transaction.load([self.operation.name])
        if (stored := transaction.find(self.operation.name)) is not None:
            return Inserted(stored.operation, created=False)
        if (existing := await self._same_request(transaction)) is not None:
            if existing.request_digest != self.operation.request_digest:
                raise RequestIdReusedError(self.operation.request_id)
            return Inserted(existing, created=False)
        await require_room(transaction, self.max_pending)
        await require_room(transaction, self.max_pending_in_method, self.operation.method)
        await _insert(transaction, [self])
        if transaction.find(self.operation.name) is None:
            raise await exclusive_conflict(transaction, self.operation.exclusive_key)
        return Inserted(self.operation, created=True)

    async def _same_request(self, transaction: Transaction) -> Operation | None:
        """Return the operation that has the request_id; forget it if it has expired."""
        new = self.operation
        if not new.request_id:
            return None
        key = [kept(new.request_id), new.method, new.parent, new.principal]
        row = await (await transaction.execute(statements.BY_REQUEST, key)).fetchone()
        if row is None:
            return None
        existing = operation_of(row[1:])
        if transitions.expired(existing, transaction.now):
            await transaction.execute(statements.FORGET, [[row[0]]])
            return None
        return existing


async def require_room(
    transaction: Transaction, limit: int | None, method: str | None = None
) -> None:
    """Raise QueueFullError if as many operations are PENDING as may be."""
    if limit is not None and await transaction.pending(limit, method) >= limit:
        raise QueueFullError(limit, method)


async def _fits(transaction: Transaction, given: Sequence[int | None], method: str | None) -> bool:
    """Whether so many operations as there are limits can wait without exceeding one."""
    limits = [limit for limit in given if limit is not None]
    if not limits:
        return True
    return await transaction.pending(max(limits), method) + len(given) <= min(limits)


async def exclusive_conflict(transaction: Transaction, key: str) -> Exception:
    """Return the error of an operation that another one kept from being inserted.

    That one may have ended since; then what it was kept from is to be tried again.
    """
    row = await (
        await transaction.execute(statements.EXCLUSIVE_HOLDER, [digest_of(kept(key))])
    ).fetchone()
    return OvertakenError() if row is None else ExclusiveConflictError(key, row[0], deleted=row[1])


async def _insert(transaction: Transaction, commands: Sequence[Insert]) -> None:
    """Insert what the unique indexes let in, and take it into the transaction."""
    new = {it.operation.name: it for it in commands}
    cursor = await transaction.execute(*insertion(list(new.values()), None))
    for row_id, name in await cursor.fetchall():
        transaction.inserted(Stored(row_id, new[name].operation))


def insertion(commands: Sequence[Insert], max_pending: int | None) -> tuple[str, Sequence[Any]]:
    """Return the statement, with its parameters, that inserts operations of different names.

    It returns the ids and names of those that the unique indexes let in; none unless all of
    them may wait.
    """
    # In one order, so that transactions that insert the same do not wait for each other.
    rows = [
        (*row_of(it.operation), it.request.type_url, it.request.value)
        for it in sorted(commands, key=_insertion_order)
    ]
    before = None if max_pending is None else max_pending - len(rows)
    statement = statements.INSERT_WITH_REQUESTS
    return statement.sql, [*statement.parameters(rows), max_pending, max_pending, before]


def _insertion_order(command: Insert) -> tuple[str, str, str]:
    operation = command.operation
    return operation.request_id, operation.exclusive_key, operation.name


@dataclass(eq=False, slots=True)
class Update(Command[Operation]):
    """Change one record by a pure function of the record and the time."""

    order: ClassVar[int] = 1
    name: str
    change: Callable[[Operation, datetime], Operation]
    lease: Lease | None = None
    """A worker's write works on hidden records too; it is refused if there is none."""
    size: int = 0

    @property
    def names(self) -> Collection[str]:
        return (self.name,)

    @classmethod
    async def prepare(cls, transaction: Transaction, commands: Sequence[Self]) -> None:
        await transaction.load([command.name for command in commands])

    async def run(self, transaction: Transaction) -> Operation:
        stored = transaction.find(self.name)
        if self.lease is not None:
            if stored is None:
                raise LeaseLostError(self.name, self.lease.epoch)
        elif stored is None or not transitions.visible(stored.operation, transaction.now):
            raise OperationNotFoundError(self.name)
        transaction.replace(stored, self.change(stored.operation, transaction.now))
        return stored.operation


@dataclass(eq=False, slots=True)
class RecordStep(Command[None]):
    """Keep the result of a step."""

    order: ClassVar[int] = 1
    lease: Lease
    key: str
    result: Payload

    @property
    def names(self) -> Collection[str]:
        return (self.lease.name,)

    @property
    def size(self) -> int:
        return len(self.result.value)

    @classmethod
    async def prepare(cls, transaction: Transaction, commands: Sequence[Self]) -> None:
        await transaction.load([command.lease.name for command in commands])

    async def run(self, transaction: Transaction) -> None:
        stored = transaction.find(self.lease.name)
        if stored is None:
            raise LeaseLostError(self.lease.name, self.lease.epoch)
        transitions.require_owner(stored.operation, self.lease)
        row = stored.id, kept(self.key), self.result.type_url, self.result.value
        await transaction.execute_for(statements.RECORD_STEPS, [row])


@dataclass(eq=False, slots=True)
class Expire(Command[int]):
    """Forget expired operations."""

    order: ClassVar[int] = 4
    limit: int

    async def run(self, transaction: Transaction) -> int:
        await transaction.flush()
        parameters = [to_micros(transaction.now), self.limit]
        return (await transaction.execute(statements.FORGET_EXPIRED, parameters)).rowcount
