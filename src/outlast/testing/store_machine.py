"""A state machine that drives any store beside a model, and compares what both say.

A store's test subclasses it and says how a store is opened:

    class MyStoreMachine(StoreMachine):
        def open_store(self, clock):
            return MyStore.open(clock=clock)

    TestMyStoreMachine = MyStoreMachine.TestCase

It needs Hypothesis, which the extra `testing` installs.
"""

from dataclasses import replace
from datetime import timedelta
from typing import Any

try:
    from hypothesis import strategies as st
    from hypothesis.stateful import initialize, precondition, rule
except ModuleNotFoundError as error:
    msg = f"{__name__} needs Hypothesis: install the extra outlast[testing]"
    raise ImportError(msg) from error

from outlast.domain import transitions
from outlast.domain.errors import NotRedrivableError, OperationNotFoundError, OutlastError
from outlast.domain.listing import Conditions, Cursor, ListQuery
from outlast.domain.names import operation_name
from outlast.domain.operation import Operation
from outlast.domain.status import Payload
from outlast.ports import Inserted
from outlast.testing import store_values as values
from outlast.testing.machine_base import (
    has_expired,
    has_redrivable,
    has_visible,
    names,
    redrivable_names,
)
from outlast.testing.machine_workers import WorkerRules


class StoreMachine(WorkerRules):
    """Inserts, claims, writes, cancels and deletes in any order, and lets time pass."""

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
                distrust=timedelta(),
                max_running={},
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

    @precondition(has_visible)
    @rule(name=names)
    def insert_again(self, name: str) -> None:
        record = self.model.visible(self.clock.now()).get(name)
        if record is not None:
            again = self.store.insert(self._inserted[name], self.model.requests[name])
            assert self._run(again) == Inserted(record, created=False)

    @precondition(has_redrivable)
    @rule(
        name=redrivable_names,
        again=st.booleans(),
        max_pending=st.sampled_from([None, None, None, 0, 3]),
        in_methods=st.dictionaries(st.sampled_from(values.METHODS), st.integers(0, 3)),
    )
    def redrive(
        self, name: str, again: bool, max_pending: int | None, in_methods: dict[str, int]
    ) -> None:
        now = self.clock.now()
        record = self.model.visible(now).get(name)
        existing = self.model.redrive_of(name, now, done=not again)
        refusals: set[type[OutlastError]] = set()
        if record is None:
            refusals.add(OperationNotFoundError)
        elif record.state not in transitions.REDRIVABLE:
            refusals.add(NotRedrivableError)
        elif existing is None:
            in_method = in_methods.get(record.method)
            refusals = self.model.refusals(
                record, None, max_pending=max_pending, max_pending_in_method=in_method
            )
        number = f"op-{len(self._inserted):03}"
        redrive = self.store.redrive(
            name,
            number,
            again=again,
            max_pending=max_pending,
            max_pending_in_methods=in_methods,
        )
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

    @precondition(has_visible)
    @rule(name=names)
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

    @precondition(has_visible)
    @rule(name=names)
    def delete(self, name: str) -> None:
        record = self.model.visible(self.clock.now()).get(name)
        try:
            self._run(self.store.delete(name))
        except OperationNotFoundError:
            assert record is None
            return
        assert record is not None
        self.model.replace(transitions.delete(record))

    @precondition(has_visible)
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

    @precondition(has_expired)
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
