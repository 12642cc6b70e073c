"""What workers do, judged: when a handler runs, what it is told, which steps it executes."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from outlast.domain.operation import Lease, Operation
from outlast.domain.status import Payload
from outlast.domain.transitions import Retry, Succeeded
from outlast.testing.simulation.history import History
from outlast.testing.simulation.lives import Lives
from outlast.testing.simulation.loop import Host
from outlast.testing.simulation.network import Commit

_MOMENT = 1e-4
"""Less than this is rounding."""


@dataclass(slots=True)
class Attempt:
    """One run of a handler."""

    host: Host
    lease: Lease
    method: str
    told: bool = False
    """Whether it was told to stop."""
    response: Payload | None = None
    least_delay: timedelta | None = None
    """How long the next attempt must at least wait, if this one has failed."""


class Attempts:
    """Follows every handler that runs."""

    def __init__(
        self,
        lives: Lives,
        history: History,
        time: Callable[[], float],
        *,
        lease_seconds: float,
        concurrency: int,
        limits: dict[str, int],
    ) -> None:
        self._lives = lives
        self._history = history
        self._time = time
        self._lease_seconds = lease_seconds
        self._tick_seconds = lease_seconds / 12
        self._concurrency = concurrency
        self._limits = limits
        self._all: dict[Lease, Attempt] = {}
        self._active: dict[Lease, Attempt] = {}
        self._held_until: dict[tuple[str, Lease], float] = {}
        self._executed: set[tuple[Lease, str]] = set()

    def holds(self, host: Host, lease: Lease, until: float) -> None:
        """Note until when a worker knows that a lease is its own."""
        self._held_until[host.name, lease] = until

    def began(self, host: Host, operation: Operation) -> Attempt:
        """Check that a handler may begin."""
        lease = Lease(operation.name, operation.lease_epoch)
        attempt = Attempt(host, lease, operation.method)
        if lease in self._all:
            self._broken(attempt, "an attempt runs once", "its handler began again")
        if operation.worker != host.name:
            self._broken(attempt, "only what was claimed runs", "it was given to another")
        until = self._held_until.get((host.name, lease), 0.0)
        if self._time() > max(until, host.resumed_at) + _MOMENT:
            self._broken(attempt, "nothing begins after its lease", f"it ended at {until:.6f}")
        self._all[lease] = self._active[lease] = attempt
        self._history.note(host.name, f"begins {lease.name} under epoch {lease.epoch}")
        self._check_limits(attempt)
        return attempt

    def told(self, attempt: Attempt) -> None:
        """Note that a handler got CancelledError."""
        attempt.told = True
        self._history.note(attempt.host.name, f"is told to stop {attempt.lease.name}")

    def executes(self, attempt: Attempt, key: str) -> None:
        """Check that a step has to be executed."""
        life = self._lives.get(attempt.lease.name)
        recorded = None if life is None else life.steps.get(key)
        if recorded is not None and recorded[1] < attempt.lease.epoch:
            detail = f"step {key!r}, recorded under epoch {recorded[1]}"
            self._broken(attempt, "a recorded step is not executed again", detail)
        if (attempt.lease, key) in self._executed:
            self._broken(attempt, "an attempt executes a step once", f"step {key!r}")
        self._executed.add((attempt.lease, key))
        self._history.note(attempt.host.name, f"executes step {key} of {attempt.lease.name}")

    def resumes(self, attempt: Attempt, key: str, result: Payload) -> None:
        """Check what a handler was handed instead of executing a step."""
        life = self._lives.get(attempt.lease.name)
        recorded = None if life is None else life.steps.get(key)
        if recorded is None or recorded[0] != result:
            self._broken(attempt, "a handler gets the result that was recorded", f"step {key!r}")

    def left(self, attempt: Attempt) -> None:
        """Note that a handler has ended."""
        if attempt.host.alive:
            self._active.pop(attempt.lease, None)

    def committed(self, commit: Commit) -> None:
        """Check that what was written is what the handler did, and that time is kept."""
        if commit.method == "insert" and commit.records:
            name = commit.records[0].name  # perhaps of one that was deleted, whose epochs are over
            self._all = {lease: it for lease, it in self._all.items() if lease.name != name}
        elif commit.method == "finish" and commit.succeeded:
            lease, outcome = commit.arguments
            attempt = self._all.get(lease)
            if attempt is not None:
                self._check_outcome(attempt, outcome)
        self.check_overdue()

    def check_overdue(self) -> None:
        """Check that every handler was told to stop that had to be."""
        now = self._time()
        for attempt in self._active.values():
            host = attempt.host
            if attempt.told or not host.alive or host.paused:
                continue
            awake = host.resumed_at + self._tick_seconds
            until = self._held_until.get((host.name, attempt.lease), 0.0)
            if now > max(until, awake) + _MOMENT:
                detail = f"its lease ended at {until:.6f}"
                self._broken(attempt, "no handler runs on after its lease", detail)
            life = self._lives.get(attempt.lease.name)
            if life is None or life.cancelled_at is None:
                continue
            by = life.cancelled_at + self._lease_seconds + self._tick_seconds
            if now > max(by, awake) + _MOMENT:
                detail = f"it was asked for at {life.cancelled_at:.6f}"
                self._broken(attempt, "a cancelled handler gets CancelledError", detail)

    def running_on(self, host: Host) -> set[str]:
        """Return the names of the operations that handlers on a host have in hand."""
        return {it.lease.name for it in self._active.values() if it.host is host}

    def _check_limits(self, attempt: Attempt) -> None:
        here = [it for it in self._active.values() if it.host is attempt.host]
        if len(here) > self._concurrency:
            detail = f"{len(here)} of {self._concurrency} run"
            self._broken(attempt, "the concurrency is not exceeded", detail)
        count = Counter(it.method for it in here)[attempt.method]
        limit = self._limits.get(attempt.method, self._concurrency)
        if count > limit:
            self._broken(attempt, "a method's concurrency is not exceeded", f"{count} of {limit}")

    def _check_outcome(self, attempt: Attempt, outcome: object) -> None:
        match outcome:
            case Succeeded(response) if response != attempt.response:
                self._broken(attempt, "the result is what the handler returned", f"{response}")
            case Retry(_, delay) if attempt.least_delay is not None:
                if delay < attempt.least_delay:
                    detail = f"{delay} instead of {attempt.least_delay}"
                    self._broken(attempt, "a retry waits for its backoff", detail)

    def _broken(self, attempt: Attempt, invariant: str, detail: str) -> None:
        name = attempt.lease.name
        self._history.broken(invariant, f"{name} on {attempt.host.name}: {detail}", name)
