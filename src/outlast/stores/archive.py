"""Whole operations, as they are carried from one store to another.

This lies beside the engine's port: nothing here claims, runs or changes an operation. Who
opens a store for it has the store alone, for nothing may move while it is carried; so there
is nothing to wait for on an event loop either.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from outlast.domain.operation import Attempt, Operation
from outlast.domain.status import Payload
from outlast.stores.rows import Row, attempt_from_row, attempt_values, operation_from_row

BATCH_OPERATIONS = 256
BATCH_BYTES = 8 * 2**20
"""A batch has no more than this, unless it is a single operation that has."""


@dataclass(frozen=True, slots=True)
class Archived:
    """All that a store knows of an operation, hidden ones included."""

    operation: Operation
    request: Payload
    steps: Mapping[str, Payload]
    attempts: Sequence[Attempt]
    """Those that ended without ending the operation, the oldest first."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an operation is not carried."""

    name: str
    reason: str


@dataclass(slots=True)
class Batch:
    """What was read at once."""

    records: list[Archived] = field(default_factory=list)
    unreadable: list[Refusal] = field(default_factory=list)


@dataclass(slots=True)
class Written:
    """What became of records."""

    added: int = 0
    present: int = 0
    """How many were there already, with the same content."""
    refused: list[Refusal] = field(default_factory=list)


class Tables(ABC):
    """The tables of a store that nobody else has open.

    Rows are those of `outlast.stores.rows`; the parts of an operation begin with its id.
    Methods raise StoreUnavailableError if the store cannot answer.
    """

    unfit: ClassVar[tuple[type[Exception], ...]] = ()
    """What inserts raise for values that the store cannot keep."""

    @abstractmethod
    def transaction(self) -> AbstractContextManager[object]:
        """Make durable what the block writes; if it raises, keep nothing of it."""

    @abstractmethod
    def count(self) -> int:
        """Return how many operations there are."""

    @abstractmethod
    def secret(self) -> bytes:
        """Return the store's secret."""

    @abstractmethod
    def set_secret(self, secret: bytes) -> None:
        """Replace the store's secret."""

    @abstractmethod
    def sizes(self, after: int, limit: int) -> Sequence[tuple[int, int]]:
        """Return the next ids after one, in their order, each with about how many bytes it has."""

    @abstractmethod
    def ids(self, names: Sequence[str]) -> Mapping[str, int]:
        """Return the ids of those operations that there are."""

    @abstractmethod
    def operations(self, ids: Sequence[int]) -> Sequence[Row]:
        """Return ids, types and values of requests (or None), and COLUMNS, in the ids' order."""

    def understood(self, values: Row) -> Operation:
        """Read the values of COLUMNS back, as this store keeps them."""
        return operation_from_row(values)

    @abstractmethod
    def steps(self, ids: Sequence[int]) -> Sequence[Row]:
        """Return the steps of operations."""

    @abstractmethod
    def attempts(self, ids: Sequence[int]) -> Sequence[Row]:
        """Return the attempts of operations, those of each in the order of their epochs."""

    @abstractmethod
    def insert(self, operations: Sequence[Operation]) -> Mapping[str, int]:
        """Insert those that no unique index refuses; return the names and ids of these."""

    @abstractmethod
    def insert_parts(
        self, requests: Sequence[Row], steps: Sequence[Row], attempts: Sequence[Row]
    ) -> None:
        """Insert what belongs to new operations."""

    @abstractmethod
    def holders(self, operation: Operation) -> Sequence[tuple[str, str]]:
        """Return what other operations keep this one out for, and their names."""


class Archive:
    """Reads all operations of a store, or adds some to it."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def __len__(self) -> int:
        """Return how many operations there are, hidden ones included."""
        return self._tables.count()

    @property
    def secret(self) -> bytes:
        """The store's secret."""
        return self._tables.secret()

    def adopt(self, secret: bytes) -> bool:
        """Take over a secret unless there are operations; return whether it is the store's now."""
        with self._tables.transaction():
            if not len(self):
                self._tables.set_secret(secret)
            return self.secret == secret

    def batches(self) -> Iterator[Batch]:
        """Yield every operation once, in the order in which they were inserted."""
        after = -1
        while ids := _cut(self._tables.sizes(after, BATCH_OPERATIONS)):
            yield self._read(ids)
            after = ids[-1]

    def write(self, records: Sequence[Archived]) -> Written:
        """Add the records that are not there yet, each with all that it has.

        When it returns, what it added is durable; if it does not, none of it is there. A
        record is refused if its name is that of another operation, or of another state of it,
        or if what only one may have, such as a request_id, is another operation's. Nothing
        that is there is changed.
        """
        try:
            with self._tables.transaction():
                return self._write(records)
        except self._tables.unfit as error:
            if len(records) == 1:
                reason, *_ = str(error).splitlines()
                refusal = Refusal(records[0].operation.name, f"the target cannot keep it: {reason}")
                return Written(refused=[refusal])
        written = Written()
        for record in records:
            one = self.write([record])
            written.added += one.added
            written.present += one.present
            written.refused += one.refused
        return written

    def _read(self, ids: Sequence[int]) -> Batch:
        steps: defaultdict[int, dict[str, Payload]] = defaultdict(dict)
        for row_id, key, type_url, value in self._tables.steps(ids):
            steps[row_id][key] = Payload(type_url, value)
        attempts: defaultdict[int, list[Row]] = defaultdict(list)
        for row_id, *values in self._tables.attempts(ids):
            attempts[row_id].append(values)
        batch = Batch()
        for row_id, type_url, value, *values in self._tables.operations(ids):
            try:
                if type_url is None:
                    raise LookupError("its request is missing")  # noqa: TRY301  # as all else
                record = Archived(
                    self._tables.understood(values),
                    Payload(type_url, value),
                    steps[row_id],
                    [attempt_from_row(row) for row in attempts[row_id]],
                )
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:
                reason = f"it cannot be understood: {type(error).__name__}: {error}"
                batch.unreadable.append(Refusal(values[0], reason))
            else:
                batch.records.append(record)
        return batch

    def _write(self, records: Sequence[Archived]) -> Written:
        there = self._tables.ids([record.operation.name for record in records])
        new, written = _compared(records, there, self._read(list(there.values())))
        ids = self._tables.insert([record.operation for record in new])
        requests: list[Row] = []
        steps: list[Row] = []
        attempts: list[Row] = []
        for record in new:
            operation, request = record.operation, record.request
            row_id = ids.get(operation.name)
            if row_id is None:
                refusal = _overlap(operation.name, self._tables.holders(operation))
                written.refused.append(refusal)
                continue
            written.added += 1
            requests.append((row_id, request.type_url, request.value))
            steps += [(row_id, key, it.type_url, it.value) for key, it in record.steps.items()]
            attempts += [(row_id, *attempt_values(attempt)) for attempt in record.attempts]
        self._tables.insert_parts(requests, steps, attempts)
        return written


def uniqueness(operation: Operation) -> Mapping[str, Any]:
    """Return, by column, what of an operation no other one may have; what is empty does not count."""
    live = operation.ready_time is not None
    return {
        "request_id": operation.request_id,
        "method": operation.method,
        "parent": operation.parent,
        "principal": operation.principal,
        "exclusive_key": operation.exclusive_key if live else "",
        "retried_from": operation.retried_from if live and not operation.deleted else "",
    }


def _cut(sizes: Iterable[tuple[int, int]]) -> list[int]:
    """Return the first of some ids, as many as make a batch."""
    ids: list[int] = []
    left = BATCH_BYTES
    for row_id, size in sizes:
        left -= size
        if ids and left < 0:
            break
        ids.append(row_id)
    return ids


def _compared(
    records: Sequence[Archived], names: Collection[str], there: Batch
) -> tuple[list[Archived], Written]:
    """Return which records are to be inserted, and what becomes of those whose names are there."""
    known = {record.operation.name: record for record in there.records}
    new: list[Archived] = []
    written = Written()
    for record in records:
        name = record.operation.name
        if name not in names:
            new.append(record)
        elif known.get(name) == record:
            written.present += 1
        else:
            written.refused.append(Refusal(name, "the target has something else of this name"))
    return new, written


def _overlap(name: str, holders: Sequence[tuple[str, str]]) -> Refusal:
    reasons = [f"the target's {holder} has the same {what}" for what, holder in holders]
    return Refusal(name, "; ".join(reasons) or "the target does not take it")
