"""What a transaction has read and is about to write."""

from collections import Counter
from dataclasses import dataclass

from outlast.domain import transitions
from outlast.domain.operation import Operation, State
from outlast.ports import Change
from outlast.stores.rows import Row, attempt_values, hiding_values


@dataclass(slots=True)
class Stored:
    """A row of the table, and its record as it stands in this transaction."""

    id: int
    operation: Operation


class ChangeSet:
    """Records with their changes, which are written together."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        """What is to be told when this is durable."""
        self.stored: dict[str, Stored | None] = {}
        """What was read or inserted, by name; None for what is forgotten."""
        self.pending_differences: Counter[str] = Counter()
        """By how much the number of PENDING operations has changed, by method."""
        self.dirty: dict[int, Operation] = {}
        self.attempts: list[Row] = []
        self.hidden: list[Row] = []
        self.forgotten: list[int] = []

    def add(self, stored: Stored) -> None:
        """Take in a record that was read or inserted by a statement."""
        self.stored[stored.operation.name] = stored

    def inserted(self, stored: Stored) -> None:
        """Take in a record that this transaction has inserted."""
        self.add(stored)
        self.pending_differences[stored.operation.method] += 1
        self.changes.append(Change.of(stored.operation))

    def find(self, name: str) -> Stored | None:
        """Return a record that was taken in, hidden ones as well."""
        return self.stored.get(name)

    def replace(self, stored: Stored, after: Operation) -> None:
        """Write a record's next state, with what follows from it."""
        before = stored.operation
        if after is before:
            return
        attempt = transitions.ended_attempt(before, after)
        if attempt is not None:
            self.attempts.append((stored.id, *attempt_values(attempt)))
        stored.operation = after
        difference = (after.state is State.PENDING) - (before.state is State.PENDING)
        if difference:
            self.pending_differences[after.method] += difference
        self.changes.append(Change.of(after))
        if after.deleted and after.done:
            self.dirty.pop(stored.id, None)
            self.forgotten.append(stored.id)
            self.stored[after.name] = None  # so that it is not read again before it is deleted
            return
        self.dirty[stored.id] = after
        if after.deleted and not before.deleted:
            self.hidden.append((*hiding_values(after), stored.id))

    def written(self) -> None:
        """Take note that statements have written everything."""
        self.dirty.clear()
        self.attempts.clear()
        self.hidden.clear()
        self.forgotten.clear()
