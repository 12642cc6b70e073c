"""What the store committed, judged: an account of its own of every operation's life."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from outlast.domain import transitions
from outlast.domain.operation import Claim, Lease, Operation, State
from outlast.domain.status import Payload
from outlast.domain.transitions import Cancelled, Failed, Outcome, Released, Retry, Succeeded
from outlast.domain.trial import SUSPECT_FROM
from outlast.ports import Claims, Clock, OperationStore, Renewal
from outlast.testing.simulation.history import History
from outlast.testing.simulation.network import Commit, at_once

_READS = frozenset({"get", "get_many", "list_page", "steps", "attempts", "stats", "expire"})
_NEVER_CHANGES = (
    "parent",
    "method",
    "create_time",
    "principal",
    "request_digest",
    "target",
    "exclusive_key",
    "max_attempts",
    "timeout",
    "retention",
    "retried_from",
)
_LEGAL = {
    State.PENDING: {State.PENDING, State.RUNNING, State.CANCELLED, State.FAILED},
    State.RUNNING: set(State),
    State.SUCCEEDED: {State.SUCCEEDED},
    State.FAILED: {State.FAILED},
    State.CANCELLED: {State.CANCELLED},
}
_HIDES = {"revision", "deleted", "request_id"}
"""What deleting changes."""


@dataclass(slots=True)
class Life:
    """What became of one operation so far."""

    record: Operation
    not_before: datetime
    """When its next attempt may begin."""
    lease_end: datetime | None = None
    """Until when the store has promised it to a worker."""
    claims: int = 0
    releases: int = 0
    losses: int = 0
    """How often in a row its lease was lost."""
    forgiven: int = 0
    """How many lost attempts did not count."""
    completions: int = 0
    steps: dict[str, tuple[Payload, int]] = field(default_factory=dict)
    """What was recorded under each key, and under which epoch."""
    done_at: float | None = None
    cancelled_at: float | None = None
    """When it was asked to stop while it ran."""
    hidden_at: float | None = None


class Lives:
    """Knows every operation that was ever committed, and checks each change of one."""

    def __init__(
        self,
        store: OperationStore,
        clock: Clock,
        time: Callable[[], float],
        history: History,
        *,
        limits: Mapping[str, int],
    ) -> None:
        self.changed_at = 0.0
        """When an operation last came nearer to its end, in the loop's seconds."""
        self._store = store
        self._clock = clock
        self._time = time
        self._history = history
        self._limits = limits
        """How many of a method may run on all workers."""
        self._lives: dict[str, Life] = {}
        self._ever_hidden: set[str] = set()
        self._begun: set[bytes] = set()

    def __iter__(self) -> Iterator[Life]:
        """Iterate over all, done and hidden ones as well."""
        return iter(self._lives.values())

    def __len__(self) -> int:
        return len(self._lives)

    def get(self, name: str) -> Life | None:
        """Return what is known of an operation."""
        return self._lives.get(name)

    def visible(self, name: str) -> bool:
        """Whether readers must see an operation now."""
        life = self._lives.get(name)
        return life is not None and transitions.visible(life.record, self._clock.now())

    def may_be_missing(self, name: str) -> bool:
        """Whether readers may at some time not have seen an operation."""
        return name in self._ever_hidden or not self.visible(name)

    def committed(self, commit: Commit) -> None:
        """Check what a call has changed, and that readers see it."""
        before = {it.name: self._lives.get(it.name) for it in commit.records}
        if commit.records and (commit.method in _READS or not commit.succeeded):
            self._broken("reads and refused writes change nothing", repr(commit.records))
        for record in commit.records:
            self._note(commit, record)
            life = before[record.name]
            if commit.method not in {"insert", "redrive"}:
                if life is None:
                    self._broken("only an insert brings an operation into being", record.name)
                    return
                self._check_change(life.record, record)
        if commit.succeeded:
            self._check_call(commit)
        self._check_limits({it.method for it in commit.records})
        touched = {it.name for it in commit.records}
        if commit.method in {"renew", "record_step"} and commit.arguments:
            touched.update(it.name for it in _leases(commit.arguments[0]))
        self._check_readers(touched)

    def check_everything(self) -> None:
        """Check once more that the store holds what was committed, and nothing else."""
        self._check_readers(self._lives)
        for name, life in self._lives.items():
            if self.visible(name):
                kept = {key: payload for key, (payload, _) in life.steps.items()}
                if dict(at_once(self._store.steps(name))) != kept:
                    self._broken("a recorded step stays as it is", name)

    # What holds for every change.

    def _check_change(self, before: Operation, after: Operation) -> None:
        name = after.name
        changed = {it for it in vars(after) if getattr(before, it) != getattr(after, it)}
        if before.done and changed - _HIDES:
            self._broken("done is final, and a result never changes", f"{sorted(changed)}", name)
        if after.state not in _LEGAL[before.state]:
            self._broken("states follow one another", f"{before.state} to {after.state}", name)
        if after.revision <= before.revision or after.update_time < before.update_time:
            self._broken("revision and update_time grow", f"{after.revision}", name)
        if after.lease_epoch < before.lease_epoch:
            self._broken("the epoch never goes back", f"{after.lease_epoch}", name)
        if not 0 <= after.attempt <= after.max_attempts:
            self._broken("attempts never exceed their maximum", f"{after.attempt}", name)
        if changed.intersection(_NEVER_CHANGES):
            self._broken("what an operation is never changes", f"{sorted(changed)}", name)
        if before.deleted and not after.deleted:
            self._broken("what was deleted does not come back", "it was shown again", name)
        if before.cancel_requested_time is not None and after.cancel_requested_time is None:
            self._broken("a request to cancel is kept", "it was taken back", name)
        if after.done and not before.done:
            self._complete(after)

    def _check_limits(self, methods: set[str]) -> None:
        for method in methods & self._limits.keys():
            records = (life.record for life in self)
            count = sum(it.state is State.RUNNING and it.method == method for it in records)
            if count > self._limits[method]:
                detail = f"{count} of {self._limits[method]} of {method} run"
                self._broken("no more run on all workers than may", detail)

    def _complete(self, after: Operation) -> None:
        life = self._lives[after.name]
        life.completions += 1
        life.done_at = self._time()
        if life.completions > 1:
            self._broken("one completion is visible", "it was completed again", after.name)
        if after.end_time is None or after.expire_time is None or after.ready_time is not None:
            self._broken("what is done has ended, and is not due", repr(after), after.name)

    def _check_readers(self, names: Collection[str]) -> None:
        found = at_once(self._store.get_many(sorted(names)))
        for name in names:
            life = self._lives.get(name)
            expected = life.record if life is not None and self.visible(name) else None
            seen = found.get(name)
            if seen is None and expected is not None:
                self._broken("what was committed is there", "readers do not find it", name)
            elif seen is not None and expected is None:
                self._broken("what was deleted does not come back", "readers find it", name)
            elif seen is not None and expected is not None and not _same(seen, expected):
                self._broken("readers see what was committed last", f"{seen}", name)

    # What holds for each kind of call.

    def _check_call(self, commit: Commit) -> None:
        checks = {
            "insert": self._check_insert,
            "redrive": self._check_redrive,
            "claim": self._check_claim,
            "reap": self._check_reaped,
            "renew": self._check_renewal,
            "record_progress": self._check_owner,
            "record_step": self._check_step,
            "finish": self._check_finish,
            "request_cancel": self._note_request,
            "delete": self._note_request,
        }
        if commit.method in checks:
            checks[commit.method](commit)
        for record in commit.records:
            self._lives[record.name].record = record

    def _check_insert(self, commit: Commit) -> None:
        operation, request = commit.arguments
        name, result = operation.name, commit.result
        if not result.created:
            if result.operation.name != name and not self.visible(result.operation.name):
                self._broken("an insert finds what readers see", "it is hidden", name)
            return
        if name not in self._lives and request.value in self._begun:
            self._broken("one operation for each call that starts one", "a second one", name)
        self._begun.add(request.value)
        self._add(operation)

    def _check_redrive(self, commit: Commit) -> None:
        name, result = commit.arguments[0], commit.result
        if not result.created:
            return
        if any(
            life.record.retried_from == name and not life.record.done
            for life in self._lives.values()
            if self.visible(life.record.name)
        ):
            self._broken("an operation is redriven once at a time", "it runs already", name)
        self._add(result.operation).steps = {
            key: (payload, 0) for key, (payload, _) in self._lives[name].steps.items()
        }

    def _add(self, operation: Operation) -> Life:
        """Begin a new life, which nothing that is there may speak against."""
        name = operation.name
        known = self._lives.get(name)
        if known is not None and not known.record.done:
            self._broken("the same insert made again finds the operation", "a second one", name)
        for life in self._lives.values():
            other = life.record
            if _same_request(other, operation) and self.visible(other.name):
                self._broken("one operation for each request_id", f"also {other.name}", name)
            if _excludes(other, operation):
                self._broken("one operation for each exclusive key", f"also {other.name}", name)
        life = self._lives[name] = Life(operation, self._clock.now())
        return life

    def _check_claim(self, commit: Commit) -> None:
        _, slots, limit, duration = commit.arguments
        claims: Claims = commit.result
        given = [claim.operation for claim in claims.claims]
        for method in {it.method for it in given}:
            if sum(it.method == method for it in given) > slots.get(method, 0):
                self._broken("no claim exceeds its limits", f"{method} in {given}")
        if len(given) > limit:
            self._broken("no claim exceeds its limits", f"{len(given)} of {limit}")
        if sum(self._suspect(it.name) for it in given) > 1:
            self._broken("suspects are tried one at a time", f"{given}")
        by_name = {claim.operation.name: claim for claim in claims.claims}
        for after in commit.records:
            self._check_taking(commit, after, by_name.get(after.name), duration)

    def _check_taking(
        self, commit: Commit, after: Operation, claim: Claim | None, duration: timedelta
    ) -> None:
        life, name, now = self._lives[after.name], after.name, self._clock.now()
        before = life.record
        if before.state is State.RUNNING and life.lease_end is not None and now < life.lease_end:
            self._broken("a lease that runs is not taken", f"it ends {life.lease_end}", name)
        if before.state is State.PENDING and now < life.not_before:
            self._broken("a retry waits for its backoff", f"due {life.not_before}", name)
        if after.done:
            return
        if claim is None or after.lease_epoch != before.lease_epoch + 1:
            self._broken("every claim raises the epoch", f"to {after.lease_epoch}", name)
        if before.cancel_requested_time is not None:
            self._broken("what is cancelled is not run again", "it was claimed", name)
        life.claims += 1
        life.lease_end = now + duration
        if before.state is State.RUNNING:
            life.losses += 1
            forgiven = after.attempt == before.attempt
            life.forgiven += forgiven
            if life.losses <= SUSPECT_FROM and not forgiven and before.max_attempts > 1:
                self._broken("the first losses in a row do not count", f"{life.losses}", name)
        self._check_count(life, after)
        self._history.note(commit.host.name, f"was given {name} under epoch {after.lease_epoch}")
        self.changed_at = self._time()

    def _check_reaped(self, commit: Commit) -> None:
        now = self._clock.now()
        for after in commit.records:
            life, name = self._lives[after.name], after.name
            before, end = life.record, life.lease_end
            if before.state is State.RUNNING and end is not None and now < end:
                self._broken("nothing is reaped that runs", f"its lease ends {end}", name)
            overdue = before.deadline is not None and before.deadline <= now
            cancelled = before.cancel_requested_time is not None
            if after.state is not (State.CANCELLED if cancelled else State.FAILED):
                self._broken("what is reaped has ended", f"{after.state}", name)
            if not (cancelled or overdue):
                self._broken("nothing is reaped that may run", f"{before}", name)

    def _suspect(self, name: str) -> bool:
        """Whether an operation that is claimed is on trial from then on."""
        life = self._lives[name]
        return life.losses + (life.record.state is State.RUNNING) >= SUSPECT_FROM

    def _check_count(self, life: Life, after: Operation) -> None:
        if after.attempt != life.claims - life.releases - life.forgiven:
            detail = f"{after.attempt} of {life.claims} claims"
            self._broken("an attempt counts once, and not if it was given back", detail, after.name)

    def _check_renewal(self, commit: Commit) -> None:
        leases, duration = commit.arguments
        renewal: Renewal = commit.result
        for lease in leases:
            if lease in renewal.lost:
                continue
            life = self._lives[lease.name]
            if life.record.state is not State.RUNNING or life.record.lease_epoch != lease.epoch:
                self._broken("every write carries the epoch that is current", "renew", lease.name)
            life.lease_end = self._clock.now() + duration

    def _check_owner(self, commit: Commit) -> None:
        lease = commit.arguments[0]
        before = self._lives[lease.name].record
        if before.state is not State.RUNNING or before.lease_epoch != lease.epoch:
            detail = f"{commit.method} under epoch {lease.epoch} was accepted"
            self._broken("every write carries the epoch that is current", detail, lease.name)

    def _check_step(self, commit: Commit) -> None:
        self._check_owner(commit)
        lease, key, payload = commit.arguments
        self._lives[lease.name].steps.setdefault(key, (payload, lease.epoch))

    def _check_finish(self, commit: Commit) -> None:
        self._check_owner(commit)
        outcome: Outcome = commit.arguments[1]
        (after,) = commit.records
        life = self._lives[after.name]
        before, now = life.record, self._clock.now()
        cancelled = before.cancel_requested_time is not None
        expected = {State.CANCELLED}
        match outcome:
            case Succeeded(response):
                expected = {State.SUCCEEDED}
                if after.response != response:
                    self._broken("the result is what was written", "it is another", after.name)
            case Failed():
                expected = {State.FAILED}
            case Retry(_, delay) if not cancelled:
                expected = {State.PENDING}
                due = now + delay
                late = before.deadline is not None and before.deadline <= due
                if late or before.attempt >= before.max_attempts:
                    expected = {State.FAILED}
                life.not_before = due
                life.losses = 0
            case Released() if not cancelled:
                expected = {State.PENDING}
                life.releases += 1
                life.not_before = now
            case Cancelled() | Retry() | Released():
                pass
        if after.state not in expected:
            self._broken("an attempt ends as it was told", f"{outcome}: {after.state}", after.name)
        if after.state is State.PENDING:
            self._check_count(life, after)
        self.changed_at = self._time()

    def _note_request(self, commit: Commit) -> None:
        """Remember when an operation was cancelled or hidden."""
        for after in commit.records:
            life = self._lives[after.name]
            if after.cancel_requested_time is not None and life.cancelled_at is None:
                life.cancelled_at = self._time()
            if after.deleted:
                life.hidden_at = self._time()
                self._ever_hidden.add(after.name)

    def _note(self, commit: Commit, record: Operation) -> None:
        hidden = ", hidden" if record.deleted else ""
        self._history.note(
            commit.host.name,
            f"{commit.method}: {record.name} is {record.state}{hidden}, attempt {record.attempt},"
            f" epoch {record.lease_epoch}, revision {record.revision}",
        )

    def _broken(self, invariant: str, detail: str, name: str = "") -> None:
        self._history.broken(invariant, f"{name}: {detail}" if name else detail, name)


def _leases(argument: Lease | Collection[Lease]) -> Collection[Lease]:
    return [argument] if isinstance(argument, Lease) else argument


def _same(one: Operation, other: Operation) -> bool:
    """Whether records are the same but for what a renewal changes, which readers do not see."""
    return one.evolve(ready_time=None) == other.evolve(ready_time=None)


def _same_request(one: Operation, other: Operation) -> bool:
    return bool(one.request_id) and all(
        getattr(one, key) == getattr(other, key)
        for key in ("request_id", "principal", "parent", "method")
    )


def _excludes(one: Operation, other: Operation) -> bool:
    return bool(one.exclusive_key) and one.exclusive_key == other.exclusive_key and not one.done
