"""An operation as a command shows it, free of protobuf."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

Json = dict[str, Any]

UNFINISHED = "UNFINISHED"
"""The state of an operation that is not done and does not say more."""


@dataclass(frozen=True, slots=True)
class StatusText:
    """A google.rpc.Status in words: one line, and more lines about its details."""

    code: int
    line: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an operation is. A total of zero is not known."""

    completed: int = 0
    total: int = 0
    percent: int = 0
    stage: str = ""
    message: str = ""

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
class Snapshot:
    """An operation at one moment."""

    name: str
    done: bool
    document: Json
    """The whole operation as proto JSON."""
    state: str = UNFINISHED
    verb: str = ""
    progress: Progress | None = None
    create_time: datetime | None = None
    error: StatusText | None = None

    @property
    def response(self) -> Json:
        """What a finished operation answered; empty if it answered nothing."""
        response: Json = self.document.get("response", {})
        return response
