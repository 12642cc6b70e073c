"""What a batch of commands reads and writes in one transaction."""

import sqlite3
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Generic, Self, TypeVar

from outlast.domain import transitions
from outlast.domain.operation import Operation, State
from outlast.ports import Change
from outlast.stores.rows import (
    Row,
    attempt_values,
    changing_values,
    hiding_values,
    operation_from_row,
)
from outlast.stores.sqlite import statements
from outlast.stores.sqlite.connection import data_version
from outlast.stores.sqlite.recent import Recent


@dataclass(slots=True)
class Stored:
    """A row of the table, and its record as it stands in this transaction."""

    id: int
    operation: Operation


class Backlog:
    """How many operations are PENDING: counted once, then kept up to date.

    It is counted again when another process has written to the file.
    """

    def __init__(self) -> None:
        self._counts: dict[str | None, int] = {}
        """By method; None for all."""
        self._data_version = 0

    def count(self, connection: sqlite3.Connection, limit: int, method: str | None) -> int:
        """Return the number, or the limit if there are as many or more."""
        version = data_version(connection)
        if version != self._data_version:
            self._counts.clear()
            self._data_version = version
        known = self._counts.get(method)
        if known is not None:
            return min(known, limit)
        sql, parameters = statements.COUNT_PENDING, [limit]  # type: tuple[str, list[str | int]]
        if method is not None:
            sql, parameters = statements.COUNT_PENDING_IN_METHOD, [method, limit]
        (count,) = connection.execute(sql, parameters).fetchone()
        if count < limit:
            self._counts[method] = count
        return int(count)

    def add(self, differences: Mapping[str, int]) -> None:
        """Take over what a transaction has changed, once it is committed."""
        for method, difference in differences.items():
            for key in (method, None):
                if key in self._counts:
                    self._counts[key] += difference


class Transaction:
    """Records that were read, with their changes, which are written together."""

    def __init__(
        self, connection: sqlite3.Connection, now: datetime, backlog: Backlog, recent: Recent
    ) -> None:
        self.connection = connection
        self.now = now
        self.changes: list[Change] = []
        self._backlog = backlog
        self._recent = recent
        self._recent_is_current = False
        self._outdated: set[str] = set()
        self._pending_before: dict[str | None, int] = {}
        self._pending_differences: Counter[str] = Counter()
        self._stored: dict[str, Stored | None] = {}
        self._dirty: dict[int, Operation] = {}
        self._attempts: list[Row] = []
        self._hidden: list[Row] = []
        self._forgotten: list[tuple[int]] = []

    def load(self, names: Collection[str]) -> None:
        """Read the named records that have not been read yet."""
        missing = [name for name in dict.fromkeys(names) if not self._take_recent(name)]
        for batch in statements.batches(missing):
            rows = self.connection.execute(statements.select_by_name(len(batch)), batch)
            for row in rows.fetchall():
                self.add(Stored(row[0], operation_from_row(row[1:])))

    def _take_recent(self, name: str) -> bool:
        """Return whether a record is loaded, or is now because this process wrote it last."""
        if name in self._stored:
            return True
        if not self._recent_is_current:
            self._recent.current(data_version(self.connection))
            self._recent_is_current = True
        known = self._recent.get(name)
        if known is not None:
            self.add(Stored(*known))
        return known is not None

    def add(self, stored: Stored) -> None:
        """Take in a record that was read or inserted by another statement."""
        self._stored[stored.operation.name] = stored

    def inserted(self, stored: Stored) -> None:
        """Take in a record that this transaction has inserted."""
        self.add(stored)
        self._pending_differences[stored.operation.method] += 1
        self.changes.append(Change.of(stored.operation))

    def pending(self, limit: int, method: str | None = None) -> int:
        """Return how many operations are PENDING, of one method or in all.

        They are counted, up to a limit, by the first call, which comes before anything
        is written: later ones must not ask for more.
        """
        if method not in self._pending_before:
            self._pending_before[method] = self._backlog.count(self.connection, limit, method)
        differences = self._pending_differences
        difference = differences.total() if method is None else differences[method]
        return self._pending_before[method] + difference

    def outdate(self, names: Iterable[str]) -> None:
        """Have records read again the next time: a statement has changed their rows."""
        self._outdated.update(names)

    def committed(self) -> Sequence[Change]:
        """Return what is to be told, now that the transaction is durable."""
        self._backlog.add(self._pending_differences)
        for name, stored in self._stored.items():
            if stored is not None and stored.operation.state is State.RUNNING:
                self._recent.put(stored.id, stored.operation)
            else:
                self._recent.discard(name)
        for name in self._outdated:
            self._recent.discard(name)
        return self.changes

    def find(self, name: str) -> Stored | None:
        """Return a loaded record, hidden ones as well."""
        return self._stored.get(name)

    def replace(self, stored: Stored, after: Operation) -> None:
        """Write a record's next state, with what follows from it."""
        before = stored.operation
        if after is before:
            return
        attempt = transitions.ended_attempt(before, after)
        if attempt is not None:
            self._attempts.append((stored.id, *attempt_values(attempt)))
        stored.operation = after
        difference = (after.state is State.PENDING) - (before.state is State.PENDING)
        if difference:
            self._pending_differences[after.method] += difference
        self.changes.append(Change.of(after))
        if after.deleted and after.done:
            self._dirty.pop(stored.id, None)
            self._forgotten.append((stored.id,))
            self._stored[after.name] = None  # so that it is not read again before it is deleted
            return
        self._dirty[stored.id] = after
        if after.deleted and not before.deleted:
            self._hidden.append((*hiding_values(after), stored.id))

    def flush(self) -> None:
        """Write what changed, so that statements see it."""
        rows: list[Row] = [
            (row_id, *changing_values(record)) for row_id, record in self._dirty.items()
        ]
        for batch in statements.batches(rows):
            self.connection.execute(
                statements.update_operations(len(batch)), statements.flat(batch)
            )
        for batch in statements.batches(self._attempts):
            self.connection.execute(statements.insert_attempts(len(batch)), statements.flat(batch))
        if self._hidden:
            self.connection.executemany(statements.HIDE, self._hidden)
        if self._forgotten:
            self.connection.executemany(statements.FORGET, self._forgotten)
        self._dirty.clear()
        self._attempts.clear()
        self._hidden.clear()
        self._forgotten.clear()


T = TypeVar("T")


class Command(ABC, Generic[T]):
    """A write. It may be run again from the start if its batch was rolled back."""

    order: ClassVar[int]
    """Commands of a batch run in this order of their kinds."""

    @classmethod
    def prepare(cls, transaction: Transaction, commands: Sequence[Self]) -> None:
        """Do what is cheaper for all commands of a kind at once."""

    @abstractmethod
    def run(self, transaction: Transaction) -> T:
        """Do the rest; raise an OutlastError, with nothing written, to refuse."""
