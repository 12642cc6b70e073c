"""What a batch of commands reads and writes in one transaction."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, ClassVar, Generic, Self, TypeVar

from psycopg import AsyncConnection, AsyncCursor

from outlast.stores.changeset import ChangeSet, Stored
from outlast.stores.postgres import statements
from outlast.stores.postgres.arrays import RowStatement
from outlast.stores.postgres.texts import findable, operation_of
from outlast.stores.rows import Row, changing_values

Connection = AsyncConnection[tuple[Any, ...]]


class OvertakenError(Exception):
    """Another transaction has changed what this one goes by; it is to be run again."""


class Transaction(ChangeSet):
    """A change set, with the connection that reads and writes it."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        super().__init__()
        self.connection = connection
        self.now = now
        self._pending_before: dict[str | None, int] = {}

    async def execute(self, sql: str, parameters: Any = None) -> AsyncCursor[tuple[Any, ...]]:
        """Execute a statement; what it returns is fetched from the cursor."""
        return await self.connection.execute(sql.encode(), parameters, binary=True)

    async def execute_for(
        self, statement: RowStatement, rows: Sequence[Row]
    ) -> AsyncCursor[tuple[Any, ...]]:
        """Execute a statement for rows, of which there is one at least."""
        return await self.execute(statement.sql, statement.parameters(rows))

    async def load(self, names: Collection[str]) -> None:
        """Read and lock the named records that have not been read yet, in their order."""
        missing = [it for it in dict.fromkeys(names) if it not in self.stored and findable(it)]
        if missing:
            cursor = await self.execute(statements.LOAD, [missing])
            for row in await cursor.fetchall():
                self.add(Stored(row[0], operation_of(row[1:])))

    async def pending(self, limit: int, method: str | None = None) -> int:
        """Return how many operations are PENDING, of one method or in all.

        They are counted, up to a limit, by the first call, which comes before anything
        is written: later ones must not ask for more. What other transactions insert
        meanwhile is not counted.
        """
        if method not in self._pending_before:
            if method is None:
                cursor = await self.execute(statements.COUNT_PENDING, [limit])
            else:
                cursor = await self.execute(statements.COUNT_PENDING_IN_METHOD, [method, limit])
            ((self._pending_before[method],),) = await cursor.fetchall()
        differences = self.pending_differences
        difference = differences.total() if method is None else differences[method]
        return self._pending_before[method] + difference

    async def flush(self) -> None:
        """Write what changed, so that statements see it."""
        if self.dirty:
            rows: list[Row] = [(it, *changing_values(record)) for it, record in self.dirty.items()]
            await self.execute_for(statements.UPDATE_OPERATIONS, rows)
        if self.attempts:
            latest = {(row[0], row[1]): row for row in self.attempts}
            await self.execute_for(statements.INSERT_ATTEMPTS, list(latest.values()))
        if self.hidden:
            await self.execute_for(statements.HIDE, self.hidden)
        if self.forgotten:
            await self.execute(statements.FORGET, [self.forgotten])
        self.written()


T = TypeVar("T")


class Command(ABC, Generic[T]):
    """A write. It may be run again from the start if its batch was rolled back."""

    order: ClassVar[int]
    """Commands of a batch run in this order of their kinds."""

    @property
    def names(self) -> Collection[str]:
        """The operations whose records it locks, if it waits for those."""
        return ()

    @property
    def size(self) -> int:
        """How many bytes it brings along, about."""
        return 0

    @classmethod
    async def prepare(cls, transaction: Transaction, commands: Sequence[Self]) -> None:
        """Do what is cheaper for all commands of a kind at once."""

    @abstractmethod
    async def run(self, transaction: Transaction) -> T:
        """Do the rest; raise an OutlastError, with nothing written, to refuse."""
