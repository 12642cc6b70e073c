"""What happened: what callers were told, what handlers wrote down, and what is left.

All moments are seconds of the machine's monotonic clock, which its processes share.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An operation as a caller was told of it."""

    name: str
    state: str
    attempt: int = 1
    max_attempts: int = 8
    update_time: int = 0
    """In nanoseconds."""
    dead_letter: bool = False
    says: str = ""
    """The text of the response or the message of the error."""
    content: bytes = b""
    """All of it, serialised."""

    @property
    def done(self) -> bool:
        """Whether it is told to have ended."""
        return self.state in {"SUCCEEDED", "FAILED", "CANCELLED"}


@dataclass(frozen=True, slots=True)
class Call:
    """One try of one call."""

    kind: str
    """start, get, wait, cancel, delete or list."""
    server: str
    began: float
    ended: float
    code: str = "OK"
    """The name of the gRPC status that the caller got."""
    request_id: str = ""
    name: str = ""
    """Of the operation, or of the parent whose operations are listed."""
    snapshots: Sequence[Snapshot] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """A line that a handler has appended to the audit file; their order is that of the file.

    began: the handler was called, with its exclusive key as the value; ran: it executes a
    step; got: the step's result is recorded; ended: it is about to end the operation;
    failed: it fails to be retried; stopped: it was told to stop; ignored: that as well, but
    it goes on; broke: it ends in another way.
    """

    event: str
    moment: float
    process: int
    run: str
    """Identifies this call of the handler."""
    name: str
    request_id: str
    attempt: int
    max_attempts: int = 8
    key: str = ""
    value: str = ""
    epoch: int = 0
    """Of the lease that the run writes under: no two runs have the same."""

    def line(self) -> bytes:
        """Return the entry as a line of the file."""
        return json.dumps(asdict(self)).encode() + b"\n"


def read_entries(path: Path) -> Sequence[Entry]:
    """Read an audit file."""
    with path.open(encoding="utf-8") as file:
        return [Entry(**json.loads(line)) for line in file]


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which a server could not do anything, or could not be relied on."""

    server: str
    kind: str
    """pause, or another word for what ends the process."""
    began: float
    ended: float
    process: int = 0
    """That was killed, if one was."""


@dataclass(frozen=True, slots=True)
class History:
    """Everything that is known of a run when it is over."""

    calls: Sequence[Call] = ()
    entries: Sequence[Entry] = ()
    outages: Sequence[Outage] = ()
    final: Mapping[str, Snapshot] = field(default_factory=dict)
    """What the servers say in the end of every operation that they show."""
    unfinished: Sequence[str] = ()
    """The operations that are not done in the file in the end, hidden ones too."""
    faults: Sequence[str] = ()
    """What is wrong with the file or with how the servers ended."""

    def timeline(self, name: str) -> Iterator[str]:
        """Tell what is known of an operation, in the order in which it happened."""
        lines: list[tuple[float, str]] = []
        for call in self.calls:
            about = [it for it in call.snapshots if it.name == name]
            if about or call.name == name:
                told = [f"{it.state}, attempt {it.attempt}: {it.says}" for it in about]
                text = f"{call.kind} at {call.server}, {call.code}, until {call.ended:.3f} {told}"
                lines.append((call.began, text))
        for entry in self.entries:
            if entry.name == name:
                text = f"handler {entry.event} {entry.key} {entry.value}".strip()
                run = f"process {entry.process}, run {entry.run[:6]}, attempt {entry.attempt}"
                lines.append((entry.moment, f"{text} ({run})"))
        if lines:
            first, last = min(lines)[0], max(lines)[0]
            lines += [
                (it.began, f"{it.kind} of {it.server} until {it.ended:.3f}")
                for it in self.outages
                if it.ended >= first and it.began <= last
            ]
        return (f"{moment:.3f} {text}" for moment, text in sorted(lines))
