"""An operation as a command shows it, free of protobuf."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from outlast.cli.text import shown_time

Json = dict[str, Any]

UNFINISHED = "UNFINISHED"
"""The state of an operation that is not done and does not say more."""


@dataclass(frozen=True, slots=True)
class StatusText:
    """A google.rpc.Status in words: one line, and more lines about its details."""

    code: int
    line: str
    brief: str
    """The name of the code and the message: what matters most comes first."""
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an operation is. A total of zero is not known."""

    completed: int = 0
    total: int = 0
    percent: int = 0
    stage: str = ""
    message: str = ""
    estimated_end_time: datetime | None = None

    @property
    def text(self) -> str:
        """What is being done."""
        return ": ".join(part for part in (self.stage, self.message) if part)

    def __str__(self) -> str:
        """Say it all in one line."""
        count = str(self.completed or "")
        if self.total:
            count = f"{self.percent}% ({self.completed}/{self.total})"
        return " ".join(part for part in (count, self.text) if part)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to do the work of an operation."""

    number: int
    outcome: str
    worker: str
    document: Json
    """The whole attempt as proto JSON."""
    start_time: datetime | None = None
    end_time: datetime | None = None
    error: StatusText | None = None
    counted: bool = True
    """Whether it is one of the attempts that the operation has."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An operation at one moment."""

    name: str
    done: bool
    document: Json
    """The whole operation as proto JSON."""
    own_metadata: Json = field(default_factory=dict)
    """What the document has of metadata besides what the other fields here say."""
    state: str = UNFINISHED
    verb: str = ""
    target: str = ""
    progress: Progress | None = None
    create_time: datetime | None = None
    start_time: datetime | None = None
    update_time: datetime | None = None
    end_time: datetime | None = None
    expire_time: datetime | None = None
    cancel_requested_time: datetime | None = None
    attempt: int = 0
    max_attempts: int = 0
    next_attempt_time: datetime | None = None
    last_error: StatusText | None = None
    """Why the latest attempt that did not succeed ended."""
    dead_letter: bool = False
    retried_from: str = ""
    """The operation that this one is another try of."""
    error: StatusText | None = None

    @property
    def retry(self) -> str:
        """Why another attempt is waited for, and until when; empty if none is."""
        if self.next_attempt_time is None or self.last_error is None:
            return ""
        return (
            f"attempt {self.attempt} of {self.max_attempts} failed: {self.last_error.line}; "
            f"the next one is due at {shown_time(self.next_attempt_time)}"
        )

    @property
    def response(self) -> Json:
        """What a finished operation answered; empty if it answered nothing."""
        response: Json = self.document.get("response", {})
        return response
