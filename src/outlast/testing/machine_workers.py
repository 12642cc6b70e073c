"""What workers do to a store: claim, renew, report and finish."""

from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from outlast.domain import transitions
from outlast.domain.errors import LeaseLostError
from outlast.domain.operation import Lease, Operation, Progress, State
from outlast.domain.status import Payload
from outlast.domain.transitions import Outcome
from outlast.domain.trial import is_suspect
from outlast.ports import Claims, Renewal
from outlast.testing import store_values as values
from outlast.testing.machine_base import MachineBase, granted_leases, has_running, has_unfinished


class WorkerRules(MachineBase):
    """Claims, and writes under leases that hold and others that do not."""

    @precondition(has_unfinished)
    @rule(
        worker=st.sampled_from(["worker-1", "worker-2", "worker-3"]),
        slots=st.sampled_from(values.SLOTS),
        limit=st.integers(1, 4),
        lease=values.leases,
        suspects=st.integers(0, 2),
        distrust=values.distrusts,
        max_running=values.max_running,
    )
    def claim(
        self,
        worker: str,
        slots: dict[str, int],
        limit: int,
        lease: timedelta,
        *,
        suspects: int,
        distrust: timedelta,
        max_running: Mapping[str, int],
    ) -> None:
        if max_running:
            # Whether a claim meets what waits and has to end depends on the order of the others.
            self.reap(1000, distrust)
        for _ in range(100):
            now = self.clock.now()
            lost_by = now - distrust
            ready = self.model.ready(slots, now, suspects=suspects > 0, lost_by=lost_by)
            after = {n: transitions.claim(it, worker, now, lease) for n, it in ready.items()}
            claims = self._run(
                self.store.claim(
                    worker,
                    slots,
                    limit,
                    lease,
                    suspects=suspects,
                    distrust=distrust,
                    max_running=max_running,
                )
            )
            assert {claim.operation.name for claim in claims.claims} <= ready.keys()
            self._check_limits(claims, ready, after, max_running)
            self._check_claims(claims, after)
            full = self.model.full(max_running, slots)
            given = [ready[claim.operation.name] for claim in claims.claims]
            left = suspects - sum(map(is_suspect, given))
            assert left >= 0
            if not any(it.done for it in after.values()):  # those may count towards the limits
                self._check_turns(given, ready, slots, limit, suspects, full=full)
            unknown = {name for name, it in ready.items() if is_suspect(it) and not left}
            if self._settle_ended(claims, after, unknown):
                full = self.model.full(max_running, slots)
                assert claims.held_back == full
                assert not claims.contended
                assert claims.next_ready_time == self.model.next_ready_time(
                    slots, now, suspects=left > 0, lost_by=lost_by, full=full
                )
                return
        raise AssertionError("claims do not come to an end")

    def _check_claims(self, claims: Claims, after: Mapping[str, Operation]) -> None:
        """Check that what was given is what might be, and is nobody else's."""
        for claim in claims.claims:
            name = claim.operation.name
            assert claim.operation == after.get(name)
            assert claim.operation.state is State.RUNNING
            assert claim.request == self.model.requests[name]
            assert claim.lease not in self._granted
            self._granted.append(claim.lease)
            self.model.replace(claim.operation)

    def _check_limits(
        self,
        claims: Claims,
        ready: Mapping[str, Operation],
        after: Mapping[str, Operation],
        limits: Mapping[str, int],
    ) -> None:
        """Check that nothing has begun of which more would run than may."""
        begun = [ready[claim.operation.name] for claim in claims.claims]
        begun = [it for it in begun if it.state is State.PENDING]
        ended = [it for it in ready.values() if it.state is State.RUNNING and after[it.name].done]
        for method, limit in limits.items():
            count = sum(it.method == method for it in begun)
            left = sum(it.method == method for it in ended)
            assert not count or self.model.running(method) - left + count <= limit

    def _check_turns(
        self,
        given: Sequence[Operation],
        ready: Mapping[str, Operation],
        slots: Mapping[str, int],
        limit: int,
        suspects: int,
        *,
        full: Collection[str],
    ) -> None:
        """Check that the limits were kept, and that nobody was passed over."""
        assert len(given) <= limit
        rivals: list[Sequence[Operation]] = [given] if len(given) == limit else []
        trials = [it for it in given if is_suspect(it)]
        names = {it.name for it in given}
        for waiting in (it for it in ready.values() if it.name not in names):
            same_method = [it for it in given if it.method == waiting.method]
            assert len(same_method) <= slots[waiting.method]
            reasons = list(rivals)
            if len(same_method) == slots[waiting.method]:
                reasons.append(same_method)
            if len(trials) == suspects and is_suspect(waiting):
                reasons.append(trials)
            if waiting.method in full and waiting.state is State.PENDING:
                reasons.append([it for it in same_method if it.state is State.PENDING])
            assert any(all(_turn(it) <= _turn(waiting) for it in reason) for reason in reasons)

    def _settle_ended(
        self, claims: Claims, after: Mapping[str, Operation], unknown: Collection[str]
    ) -> bool:
        """Take over what the claim ended; return False if that cannot be known yet.

        Of what is `unknown`, some may have been met and some not.
        """
        ended = {name: it for name, it in after.items() if it.done}
        everything = claims.next_ready_time is None or claims.next_ready_time > self.clock.now()
        seen = self._run(self.store.get_many(list(ended)))
        known = True
        for name, record in ended.items():
            gone_or_done = name not in seen or seen[name].done
            if (everything and name not in unknown) or (gone_or_done and not record.deleted):
                self.model.replace(record)
            else:
                known = known and not record.deleted
        return known

    @precondition(has_unfinished)
    @rule(limit=st.integers(1, 3), distrust=values.distrusts)
    def reap(self, limit: int, distrust: timedelta) -> None:
        now = self.clock.now()
        methods = {it.method for it in self.model.records.values()}
        ready = self.model.ready(methods, now, suspects=True, lost_by=now - distrust)
        after = {name: transitions.reap(it, now) for name, it in ready.items()}
        ended = [it for it in after.values() if it.done]
        first = self._run(self.store.reap(limit, distrust=distrust))
        assert first == min(limit, len(ended))
        assert self._run(self.store.reap(1000, distrust=distrust)) == len(ended) - first
        for record in ended:
            self.model.replace(record)

    @precondition(has_running)
    @rule(first=granted_leases, second=granted_leases, duration=values.leases)
    def renew(self, first: Lease, second: Lease, duration: timedelta) -> None:
        lost: set[Lease] = set()
        cancel_requested: set[Lease] = set()
        now = self.clock.now()
        for lease in {first, second}:
            after = self._under(
                lease, partial(transitions.renew, lease=lease, now=now, duration=duration)
            )
            if after is None:
                lost.add(lease)
                continue
            self.model.replace(after)
            if after.cancel_requested_time is not None:
                cancel_requested.add(lease)
        renewal = self._run(self.store.renew({first, second}, duration))
        assert renewal == Renewal(frozenset(lost), frozenset(cancel_requested))

    @precondition(has_running)
    @rule(
        lease=granted_leases,
        progress=st.none() | st.builds(Progress, st.integers(0, 3), st.just(3)),
        metadata=values.payloads,
    )
    def report(self, lease: Lease, progress: Progress | None, metadata: Payload) -> None:
        now = self.clock.now()
        expected = self._under(
            lease, lambda it: transitions.report(it, lease, progress, metadata, now)
        )
        self._write(self.store.record_progress(lease, progress, metadata), expected)

    @precondition(has_running)
    @rule(lease=granted_leases, outcome=values.outcomes)
    def finish(self, lease: Lease, outcome: Outcome) -> None:
        now = self.clock.now()
        expected = self._under(lease, lambda it: transitions.finish(it, lease, outcome, now))
        self._write(self.store.finish(lease, outcome), expected)

    @precondition(has_running)
    @rule(lease=granted_leases, key=st.sampled_from(["a", "b"]), result=values.payloads)
    def record_step(self, lease: Lease, key: str, result: Payload) -> None:
        def owned_by_lease(record: Operation) -> Operation:
            transitions.require_owner(record, lease)
            return record

        owned = self._under(lease, owned_by_lease)
        try:
            self._run(self.store.record_step(lease, key, result))
        except LeaseLostError:
            assert owned is None
            return
        assert owned is not None
        self.model.steps.setdefault(lease.name, {}).setdefault(key, result)

    def _under(self, lease: Lease, change: Callable[[Operation], Operation]) -> Operation | None:
        """Return what a write under a lease makes of a record, None if it is refused."""
        record = self.model.records.get(lease.name)
        try:
            return None if record is None else change(record)
        except LeaseLostError:
            return None

    def _write(self, action: Coroutine[Any, Any, Operation], expected: Operation | None) -> None:
        try:
            after = self._run(action)
        except LeaseLostError:
            assert expected is None
            return
        assert after == expected
        self.model.replace(after)


def _turn(operation: Operation) -> datetime:
    """Return since when an operation that is ready has been."""
    assert operation.ready_time is not None
    return operation.ready_time
