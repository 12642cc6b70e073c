"""The operation: one record, which is the queue entry too."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Self

from outlast.domain.status import Payload, Status


class State(StrEnum):
    """Where an operation stands. SUCCEEDED, FAILED and CANCELLED are final."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def done(self) -> bool:
        """Whether nothing will change any more."""
        return self in _DONE


_DONE = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the work is, as the handler last reported it."""

    completed: int = 0
    total: int = 0
    stage: str = ""
    message: str = ""
    estimated_end_time: datetime | None = None

    @property
    def percent(self) -> int:
        """Return 100 × completed / total, rounded down; 0 if the total is unknown."""
        return min(100, 100 * self.completed // self.total) if self.total > 0 else 0


@dataclass(frozen=True, kw_only=True)
class Operation:
    """An operation as it is stored.

    All times are aware and in UTC. The request is kept beside the record, because
    only the worker that runs it reads it.
    """

    # What it is; never changes.
    name: str
    parent: str
    method: str
    """The RPC that started it, as `package.Service/Method`."""
    create_time: datetime
    principal: str = ""
    request_id: str = ""
    request_digest: bytes = b""
    target: str = ""
    exclusive_key: str = ""
    max_attempts: int = 1
    timeout: timedelta | None = None
    """How long the work may take from the start of its first attempt, retries included."""
    retention: timedelta = timedelta(days=30)
    retried_from: str = ""

    # Where it stands.
    state: State = State.PENDING
    revision: int = 1
    """Grows with every change that a reader can see."""
    attempt: int = 0
    interruptions: int = 0
    """How often in a row its lease was lost."""
    lease_epoch: int = 0
    """Grows with every claim; a write that carries an older one is refused."""
    ready_time: datetime | None = None
    """When a worker may take it: when it is due (PENDING), or its lease ends (RUNNING)."""
    worker: str = ""
    update_time: datetime
    start_time: datetime | None = None
    attempt_start_time: datetime | None = None
    deadline: datetime | None = None
    end_time: datetime | None = None
    expire_time: datetime | None = None
    cancel_requested_time: datetime | None = None
    dead_letter: bool = False
    deleted: bool = False
    """Hidden from every reader; the work goes on."""

    # What it says.
    progress: Progress | None = None
    metadata: Payload = Payload("")
    """The service's own metadata message, without the part the framework fills."""
    last_error: Status | None = None
    error: Status | None = None
    response: Payload | None = None

    @property
    def done(self) -> bool:
        """Whether the operation has ended."""
        return self.state in _DONE

    def evolve(self, **changes: Any) -> Self:
        """Return a copy with some fields changed, as `dataclasses.replace` does.

        It skips `__init__`, which for a record this wide costs more than the
        database write that follows.
        """
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__, **changes)
        return copy


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one claim to write: every write of a worker carries it."""

    name: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Claim:
    """An operation that a worker has just been given, with its request."""

    operation: Operation
    request: Payload

    @property
    def lease(self) -> Lease:
        """The lease to write under."""
        return Lease(self.operation.name, self.operation.lease_epoch)


class AttemptOutcome(StrEnum):
    """How an attempt stands."""

    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    LOST = "LOST"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to do the work, under one lease."""

    number: int
    epoch: int
    """That of its lease: with it an attempt is told from another one of the same number."""
    worker: str
    start_time: datetime
    end_time: datetime | None
    outcome: AttemptOutcome
    error: Status | None = None
    counted: bool = True
    """Whether it is one of the attempts that the operation has. A lost one need not be:
    then the next one has its number."""
