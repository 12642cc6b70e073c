"""What a batch of commands reads and writes in one transaction."""

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import ClassVar, Generic, Self, TypeVar

from outlast.domain.operation import Operation, State
from outlast.ports import Change
from outlast.stores.changeset import ChangeSet, Stored
from outlast.stores.rows import (
    Row,
    changing_values,
    operation_from_row,
)
from outlast.stores.sqlite import statements
from outlast.stores.sqlite.connection import data_version
from outlast.stores.sqlite.recent import Recent


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


class Transaction(ChangeSet):
    """A change set, with the connection that reads and writes it."""

    def __init__(
        self, connection: sqlite3.Connection, now: datetime, backlog: Backlog, recent: Recent
    ) -> None:
        super().__init__()
        self.connection = connection
        self.now = now
        self._backlog = backlog
        self._recent = recent
        self._recent_is_current = False
        self._outdated: set[str] = set()
        self._pending_before: dict[str | None, int] = {}

    def load(self, names: Collection[str]) -> None:
        """Read the named records that have not been read yet."""
        missing = [name for name in dict.fromkeys(names) if not self._take_recent(name)]
        for batch in statements.batches(missing):
            rows = self.connection.execute(statements.select_by_name(len(batch)), batch)
            for row in rows.fetchall():
                self.add(Stored(row[0], operation_from_row(row[1:])))

    def _take_recent(self, name: str) -> bool:
        """Return whether a record is loaded, or is now because this process wrote it last."""
        if name in self.stored:
            return True
        if not self._recent_is_current:
            self._recent.current(data_version(self.connection))
            self._recent_is_current = True
        known = self._recent.get(name)
        if known is not None:
            self.add(Stored(*known))
        return known is not None

    def pending(self, limit: int, method: str | None = None) -> int:
        """Return how many operations are PENDING, of one method or in all.

        They are counted, up to a limit, by the first call, which comes before anything
        is written: later ones must not ask for more.
        """
        if method not in self._pending_before:
            self._pending_before[method] = self._backlog.count(self.connection, limit, method)
        differences = self.pending_differences
        difference = differences.total() if method is None else differences[method]
        return self._pending_before[method] + difference

    def outdate(self, names: Iterable[str]) -> None:
        """Have records read again the next time: a statement has changed their rows."""
        self._outdated.update(names)

    def committed(self) -> Sequence[Change]:
        """Return what is to be told, now that the transaction is durable."""
        self._backlog.add(self.pending_differences)
        for name, stored in self.stored.items():
            if stored is not None and stored.operation.state is State.RUNNING:
                self._recent.put(stored.id, stored.operation)
            else:
                self._recent.discard(name)
        for name in self._outdated:
            self._recent.discard(name)
        return self.changes

    def rows_for_others(self) -> Sequence[int]:
        """Return the ids of changed rows by which other processes may have something to do.

        They have not when an operation has begun to run, or goes on, in one of them, and
        what is forgotten nobody waits for any more.
        """
        changed = (self.stored[name] for name in {change.name for change in self.changes})
        return [it.id for it in changed if it is not None and _matters_elsewhere(it.operation)]

    def flush(self) -> None:
        """Write what changed, so that statements see it."""
        rows: list[Row] = [
            (row_id, *changing_values(record)) for row_id, record in self.dirty.items()
        ]
        for batch in statements.batches(rows):
            self.connection.execute(
                statements.update_operations(len(batch)), statements.flat(batch)
            )
        for batch in statements.batches(self.attempts):
            self.connection.execute(statements.insert_attempts(len(batch)), statements.flat(batch))
        if self.hidden:
            self.connection.executemany(statements.HIDE, self.hidden)
        if self.forgotten:
            self.connection.executemany(statements.FORGET, [(it,) for it in self.forgotten])
        self.written()


def _matters_elsewhere(operation: Operation) -> bool:
    asked = operation.cancel_requested_time is not None
    return operation.state is not State.RUNNING or asked or operation.deleted


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
