"""A state machine that drives any store beside a model, and compares what both say.

A store's test subclasses it and says how a store is opened:

    class MyStoreMachine(StoreMachine):
        def open_store(self, clock):
            return MyStore.open(clock=clock)

    TestMyStoreMachine = MyStoreMachine.TestCase

It needs Hypothesis, which the extra `testing` installs.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

try:
    from hypothesis import strategies as st
    from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
except ModuleNotFoundError as error:
    msg = f"{__name__} needs Hypothesis: install the extra outlast[testing]"
    raise ImportError(msg) from error

from outlast.domain import transitions
from outlast.domain.errors import (
    LeaseLostError,
    NotRedrivableError,
    OperationNotFoundError,
    OutlastError,
)
from outlast.domain.listing import Conditions, Cursor, ListQuery
from outlast.domain.names import operation_name
from outlast.domain.operation import Lease, Operation, Progress, State
from outlast.domain.status import Payload
from outlast.domain.transitions import Outcome
from outlast.domain.trial import is_suspect
from outlast.ports import Claims, Inserted, OperationStore, QueueStats, Renewal
from outlast.testing import store_values as values
from outlast.testing.clock import ManualClock
from outlast.testing.store_model import StoreModel

T = TypeVar("T")

_names = st.runner().flatmap(lambda machine: st.sampled_from(machine.names()))
_redrivable_names = st.runner().flatmap(lambda machine: st.sampled_from(machine.redrivable_names()))
_granted_leases = st.runner().flatmap(lambda machine: st.sampled_from(machine.granted_leases()))


def _has_visible(machine: "StoreMachine") -> bool:
    return bool(machine.model.visible(machine.clock.now()))


def _has_unfinished(machine: "StoreMachine") -> bool:
    return any(not it.done for it in machine.model.records.values())


def _has_redrivable(machine: "StoreMachine") -> bool:
    return any(
        it.state in transitions.REDRIVABLE
        for it in machine.model.visible(machine.clock.now()).values()
    )


def _has_running(machine: "StoreMachine") -> bool:
    return any(it.state is State.RUNNING for it in machine.model.records.values())


def _has_expired(machine: "StoreMachine") -> bool:
    return bool(machine.model.expired(machine.clock.now()))


class StoreMachine(RuleBasedStateMachine):
    """Inserts, claims, writes, cancels and deletes in any order, and lets time pass."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.model = StoreModel()
        self._inserted: dict[str, Operation] = {}
        self._granted: list[Lease] = []
        self._epochs: dict[str, int] = {}
        self._results: dict[str, Operation] = {}
        self._superseded: dict[str, datetime] = {}
        self._runner = asyncio.Runner()
        self._open = AsyncExitStack()
        self.store = self._run(self._open.enter_async_context(self.open_store(self.clock)))

    def open_store(self, clock: ManualClock) -> AbstractAsyncContextManager[OperationStore]:
        """Open an empty store that goes by a clock."""
        raise NotImplementedError

    def teardown(self) -> None:
        try:
            self._run(self._compare_what_is_owned())
        finally:
            self._run(self._open.aclose())
            self._runner.close()

    def _run(self, action: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(action)

    def names(self) -> list[str]:
        """Return the names there ever were, the visible ones more than once."""
        return [*self._inserted, *[*self.model.visible(self.clock.now())] * 3]

    def redrivable_names(self) -> list[str]:
        """Return the names there ever were, those that can be redriven more than once."""
        visible = self.model.visible(self.clock.now())
        redrivable = [n for n, it in visible.items() if it.state in transitions.REDRIVABLE]
        return [*self._inserted, *redrivable * 10]

    def granted_leases(self) -> list[Lease]:
        """Return the leases there ever were, those that hold more than once."""
        held = [
            Lease(it.name, it.lease_epoch)
            for it in self.model.records.values()
            if it.state is State.RUNNING
        ]
        return [*self._granted, *held * 5]

    # What callers do.

    @initialize(
        several=st.lists(values.operations, min_size=2, max_size=8), taken=st.integers(0, 4)
    )
    def begin(self, several: list[dict[str, Any]], taken: int) -> None:
        for fields in several:
            self.insert(limits={}, **fields)
        if taken:
            self.claim(
                "worker-1",
                values.SLOTS[0],
                taken,
                timedelta(seconds=10),
                suspects=1,
                take_over=True,
            )

    @rule(fields=values.operations, limits=values.limits)
    def insert_one(self, fields: dict[str, Any], limits: dict[str, int]) -> None:
        self.insert(limits=limits, **fields)

    def insert(
        self, *, parent: str, delay: timedelta, limits: dict[str, int], **fields: Any
    ) -> None:
        """Insert an operation, or have it refused."""
        now = self.clock.now()
        operation = Operation(
            name=operation_name(parent, f"op-{len(self._inserted):03}"),
            parent=parent,
            create_time=now,
            update_time=now,
            ready_time=now + delay,
            **fields,
        )
        request = Payload("example.v1.Request", operation.name.encode())
        existing = self.model.same_request(operation, now)
        refusals = self.model.refusals(operation, existing, **limits)
        self._supersede(operation)
        try:
            inserted = self._run(self.store.insert(operation, request, **limits))
        except OutlastError as error:
            assert type(error) in refusals
            return
        assert not refusals
        if existing is not None:
            assert inserted == Inserted(existing, created=False)
            return
        assert inserted == Inserted(operation, created=True)
        self._inserted[operation.name] = operation
        self.model.insert(operation, request)

    def _supersede(self, operation: Operation) -> None:
        """Take note that a store may forget an expired record whose request_id is used again."""
        for expired in self.model.expired_with_request_id_of(operation, self.clock.now()):
            assert expired.expire_time is not None
            self._superseded[expired.name] = expired.expire_time
            self.model.forget(expired.name)

    @precondition(_has_visible)
    @rule(name=_names)
    def insert_again(self, name: str) -> None:
        record = self.model.visible(self.clock.now()).get(name)
        if record is not None:
            again = self.store.insert(self._inserted[name], self.model.requests[name])
            assert self._run(again) == Inserted(record, created=False)

    @precondition(_has_redrivable)
    @rule(
        name=_redrivable_names,
        again=st.booleans(),
        max_pending=st.sampled_from([None, None, None, 0, 3]),
    )
    def redrive(self, name: str, again: bool, max_pending: int | None) -> None:
        now = self.clock.now()
        record = self.model.visible(now).get(name)
        existing = self.model.redrive_of(name, now, done=not again)
        refusals: set[type[OutlastError]] = set()
        if record is None:
            refusals.add(OperationNotFoundError)
        elif record.state not in transitions.REDRIVABLE:
            refusals.add(NotRedrivableError)
        elif existing is None:
            refusals = self.model.refusals(record, None, max_pending=max_pending)
        number = f"op-{len(self._inserted):03}"
        redrive = self.store.redrive(name, number, again=again, max_pending=max_pending)
        try:
            inserted = self._run(redrive)
        except OutlastError as error:
            assert type(error) in refusals
            return
        assert not refusals
        assert record is not None
        operation = transitions.redrive(record, number, now)
        if existing is not None:
            assert inserted == Inserted(existing, created=False)
            return
        assert inserted == Inserted(operation, created=True)
        self._inserted[operation.name] = operation
        self.model.insert(operation, self.model.requests[name])
        if name in self.model.steps:
            self.model.steps[operation.name] = dict(self.model.steps[name])

    @precondition(_has_visible)
    @rule(name=_names)
    def cancel(self, name: str) -> None:
        now = self.clock.now()
        record = self.model.visible(now).get(name)
        try:
            after = self._run(self.store.request_cancel(name))
        except OperationNotFoundError:
            assert record is None
            return
        assert record is not None
        assert after == transitions.request_cancel(record, now)
        self.model.replace(after)

    @precondition(_has_visible)
    @rule(name=_names)
    def delete(self, name: str) -> None:
        record = self.model.visible(self.clock.now()).get(name)
        try:
            self._run(self.store.delete(name))
        except OperationNotFoundError:
            assert record is None
            return
        assert record is not None
        self.model.replace(transitions.delete(record))

    @precondition(_has_visible)
    @rule(
        parent=st.none() | st.sampled_from(values.PARENTS),
        principal=st.none() | st.sampled_from(values.PRINCIPALS),
        conditions=values.conditions,
        limit=st.integers(1, 4),
    )
    def list_everything(
        self, parent: str | None, principal: str | None, conditions: Conditions, limit: int
    ) -> None:
        if parent is None:
            conditions = replace(conditions, dead_letter=True)
        query = ListQuery(parent, limit, None, conditions, principal)
        expected = self.model.page(query, self.clock.now())
        while True:
            page = self._run(self.store.list_page(query))
            assert list(page) == expected[:limit]
            if not page:
                return
            expected = expected[limit:]
            query = ListQuery(parent, limit, Cursor.at(page[-1]), conditions, principal)

    # What workers do.

    @precondition(_has_unfinished)
    @rule(
        worker=st.sampled_from(["worker-1", "worker-2", "worker-3"]),
        slots=st.sampled_from(values.SLOTS),
        limit=st.integers(1, 4),
        lease=values.leases,
        suspects=st.integers(0, 2),
        take_over=st.sampled_from([True, True, False]),
    )
    def claim(
        self,
        worker: str,
        slots: dict[str, int],
        limit: int,
        lease: timedelta,
        *,
        suspects: int,
        take_over: bool,
    ) -> None:
        for _ in range(100):
            now = self.clock.now()
            ready = self.model.ready(slots, now, suspects=suspects > 0, take_over=take_over)
            after = {n: transitions.claim(it, worker, now, lease) for n, it in ready.items()}
            claims = self._run(
                self.store.claim(
                    worker, slots, limit, lease, suspects=suspects, take_over=take_over
                )
            )
            self._check_claims(claims, after)
            given = [ready[claim.operation.name] for claim in claims.claims]
            left = suspects - sum(map(is_suspect, given))
            assert left >= 0
            if not any(it.done for it in after.values()):  # those may count towards the limits
                self._check_turns(given, ready, slots, limit, suspects)
            unknown = {name for name, it in ready.items() if is_suspect(it) and not left}
            if self._settle_ended(claims, after, unknown):
                assert claims.next_ready_time == self.model.next_ready_time(
                    slots, suspects=left > 0, take_over=take_over
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

    def _check_turns(
        self,
        given: Sequence[Operation],
        ready: Mapping[str, Operation],
        slots: Mapping[str, int],
        limit: int,
        suspects: int,
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

    @precondition(_has_running)
    @rule(first=_granted_leases, second=_granted_leases, duration=values.leases)
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

    @precondition(_has_running)
    @rule(
        lease=_granted_leases,
        progress=st.none() | st.builds(Progress, st.integers(0, 3), st.just(3)),
        metadata=values.payloads,
    )
    def report(self, lease: Lease, progress: Progress | None, metadata: Payload) -> None:
        now = self.clock.now()
        expected = self._under(
            lease, lambda it: transitions.report(it, lease, progress, metadata, now)
        )
        self._write(self.store.record_progress(lease, progress, metadata), expected)

    @precondition(_has_running)
    @rule(lease=_granted_leases, outcome=values.outcomes)
    def finish(self, lease: Lease, outcome: Outcome) -> None:
        now = self.clock.now()
        expected = self._under(lease, lambda it: transitions.finish(it, lease, outcome, now))
        self._write(self.store.finish(lease, outcome), expected)

    @precondition(_has_running)
    @rule(lease=_granted_leases, key=st.sampled_from(["a", "b"]), result=values.payloads)
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

    # What time does.

    @rule(seconds=st.sampled_from([0.000001, 1, 3, 10]))
    def pass_time(self, seconds: float) -> None:
        self._run(self.clock.advance(seconds))

    @rule(seconds=st.sampled_from([-10, -1, 5]))
    def set_time_of_day(self, seconds: float) -> None:
        now = self.clock.now()
        gone = [
            it.expire_time for it in self.model.records.values() if transitions.expired(it, now)
        ]
        floor = max(
            [it for it in gone if it is not None] + [*self._superseded.values()], default=None
        )
        if floor is None or now + timedelta(seconds=seconds) >= floor:
            self.clock.jump(seconds)

    @precondition(_has_expired)
    @rule(limit=st.integers(1, 2))
    def expire(self, limit: int) -> None:
        expired = self.model.expired(self.clock.now())
        first = self._run(self.store.expire(limit))
        rest = self._run(self.store.expire(1000))
        assert len(expired) <= first + rest <= len(expired) + len(self._superseded)
        assert first == min(limit, first + rest)
        for name in expired:
            self.model.forget(name)
            assert self._run(self.store.steps(name)) == {}
        self._superseded.clear()

    # What must always be true.

    @invariant()
    def store_agrees_with_the_model(self) -> None:
        self._run(self._compare_what_is_visible())

    async def _compare_what_is_visible(self) -> None:
        now = self.clock.now()
        seen = await self.store.get_many(list(self._inserted))
        assert seen == self.model.visible(now)
        stats = await self.store.stats()
        assert [it for it in stats if it != QueueStats(it.method)] == self.model.stats(now)
        for name, operation in seen.items():
            assert self._epochs.get(name, 0) <= operation.lease_epoch
            self._epochs[name] = operation.lease_epoch
            if name in self._results:
                assert operation == self._results[name]
            elif operation.done:
                self._results[name] = operation

    async def _compare_what_is_owned(self) -> None:
        for name, operation in self.model.visible(self.clock.now()).items():
            assert await self.store.get(name) == operation
            assert await self.store.attempts(name) == self.model.attempts(operation)
        for name in self._inserted.keys() - self._superseded.keys():
            assert await self.store.steps(name) == self.model.steps.get(name, {})


def _turn(operation: Operation) -> datetime:
    """Return since when an operation that is ready has been."""
    assert operation.ready_time is not None
    return operation.ready_time
