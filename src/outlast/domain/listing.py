"""What a store is asked for when operations are listed."""

from dataclasses import dataclass
from datetime import datetime

from outlast.domain.operation import Operation, State


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last operation of a page; the next one begins after it."""

    create_time: datetime
    name: str

    @classmethod
    def at(cls, operation: Operation) -> "Cursor":
        """Return the cursor that stands on an operation."""
        return cls(operation.create_time, operation.name)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a store can test by itself. None asks for nothing.

    A filter is narrowed to these; what they cannot say is evaluated on the records
    that a store returns.
    """

    states: frozenset[State] | None = None
    method: str | None = None
    dead_letter: bool | None = None

    def accept(self, operation: Operation) -> bool:
        """Whether an operation meets them all."""
        return (
            (self.states is None or operation.state in self.states)
            and (self.method is None or operation.method == self.method)
            and (self.dead_letter is None or operation.dead_letter == self.dead_letter)
        )


@dataclass(frozen=True, slots=True)
class ListQuery:
    """Operations of one parent, the newest first, ties by name."""

    parent: str | None
    """None for every parent, which is for dead letters only: `conditions` must ask for these."""
    limit: int
    after: Cursor | None = None
    conditions: Conditions = Conditions()
    principal: str | None = None
    """Only this principal's operations; None for everybody's."""
