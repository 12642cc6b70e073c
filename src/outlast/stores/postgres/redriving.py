"""The command that begins the work of a failed operation again."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from outlast.domain import transitions
from outlast.domain.errors import OperationNotFoundError
from outlast.domain.operation import Operation
from outlast.ports import Inserted
from outlast.stores.changeset import Stored
from outlast.stores.postgres import statements
from outlast.stores.postgres.commands import exclusive_conflict, require_room
from outlast.stores.postgres.texts import operation_of, row_of
from outlast.stores.postgres.transaction import Command, Transaction
from outlast.stores.rows import to_micros


@dataclass(eq=False, slots=True)
class Redrive(Command[Inserted]):
    """Keep a new operation with the request and the steps of an old one."""

    order: ClassVar[int] = -1
    name: str
    operation_id: str
    again: bool
    max_pending: int | None
    max_pending_in_methods: Mapping[str, int]

    @classmethod
    async def prepare(cls, transaction: Transaction, commands: Sequence[Self]) -> None:
        await transaction.load([command.name for command in commands])
        # All are counted: commands that come later may have other limits.
        await transaction.pending(sys.maxsize)
        for command in commands:
            if (old := transaction.find(command.name)) is not None:
                await transaction.pending(sys.maxsize, old.operation.method)

    async def run(self, transaction: Transaction) -> Inserted:
        old = transaction.find(self.name)
        if old is None or not transitions.visible(old.operation, transaction.now):
            raise OperationNotFoundError(self.name)
        new = transitions.redrive(old.operation, self.operation_id, transaction.now)
        await transaction.load([new.name])
        if (stored := transaction.find(new.name)) is not None:
            return Inserted(stored.operation, created=False)
        if (existing := await self._existing(transaction)) is not None:
            return Inserted(existing, created=False)
        await require_room(transaction, self.max_pending)
        await require_room(transaction, self.max_pending_in_methods.get(new.method), new.method)
        await self._insert(transaction, old, new)
        return Inserted(new, created=True)

    async def _existing(self, transaction: Transaction) -> Operation | None:
        """Return a redrive that makes another one needless."""
        parameters = {
            "name": self.name,
            "done": not self.again,
            "now": to_micros(transaction.now),
        }
        row = await (await transaction.execute(statements.REDRIVE, parameters)).fetchone()
        return None if row is None else operation_of(row[1:])

    @staticmethod
    async def _insert(transaction: Transaction, old: Stored, new: Operation) -> None:
        cursor = await transaction.execute_for(statements.INSERT_OPERATIONS, [row_of(new)])
        kept = await cursor.fetchall()
        if not kept:
            raise await exclusive_conflict(transaction, new.exclusive_key)
        ((row_id, _),) = kept
        for copy in (statements.COPY_REQUEST, statements.COPY_STEPS):
            await transaction.execute(copy, {"new": row_id, "old": old.id})
        transaction.inserted(Stored(row_id, new))
