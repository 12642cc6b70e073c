"""What `insert` promises."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from outlast.domain.errors import (
    ExclusiveConflictError,
    OperationNotFoundError,
    QueueFullError,
    RequestIdReusedError,
)
from outlast.domain.operation import Operation
from outlast.domain.status import Payload
from outlast.domain.transitions import Failed, Outcome, Released, Succeeded
from outlast.ports import OperationStore
from outlast.testing.clock import ManualClock
from outlast.testing.contract.driver import (
    ENDINGS,
    ERROR,
    METHOD,
    OTHER_METHOD,
    PAUSES,
    RESPONSE,
    ContractFixtures,
    Driver,
    cases,
)


class InsertContract(ContractFixtures):
    """A new operation is kept whole, once, and within the limits."""

    async def test_insert_keeps_every_field(
        self, driver: Driver, store: OperationStore, other: OperationStore
    ) -> None:
        operation = driver.new(
            name="presses/süd-1/operations/été ☃ 'quoted\" %_",
            parent="presses/süd-1",
            principal="ada@example.com",
            request_id="9f1c",
            request_digest=bytes(range(256)),
            target="books/1",
            exclusive_key="books/1",
            max_attempts=7,
            timeout=timedelta(minutes=10, microseconds=1),
            retention=timedelta(days=400, microseconds=999_999),
            retried_from="operations/earlier",
            create_time=driver.clock.now() - timedelta(microseconds=123_457),
            metadata=Payload("example.v1.Metadata", b"\x00\x01\xff"),
        )
        inserted = await driver.try_insert(operation)
        assert inserted.created
        assert inserted.operation == operation
        assert await store.get(operation.name) == operation
        assert await other.get(operation.name) == operation

    async def test_insert_keeps_what_is_empty_empty(
        self, driver: Driver, store: OperationStore
    ) -> None:
        operation = await driver.insert()
        assert operation.timeout is None
        assert await store.get(operation.name) == operation

    async def test_times_are_aware_and_in_utc(self, driver: Driver, store: OperationStore) -> None:
        name = (await driver.run(Succeeded(RESPONSE), timeout=timedelta(minutes=1))).name
        operation = await store.get(name)
        for time in (
            operation.create_time,
            operation.update_time,
            operation.start_time,
            operation.deadline,
            operation.end_time,
            operation.expire_time,
        ):
            assert time is not None
            assert time.utcoffset() == timedelta()

    async def test_an_operation_inserted_again_is_returned_as_it_is_now(
        self, driver: Driver
    ) -> None:
        operation = await driver.insert()
        running = (await driver.claim_one()).operation
        again = await driver.try_insert(operation)
        assert not again.created
        assert again.operation == running
        assert len(await driver.names()) == 1


class RequestIdContract(ContractFixtures):
    """A request_id makes an insert happen once."""

    async def test_a_request_id_gives_the_same_operation_again(self, driver: Driver) -> None:
        first = await driver.insert(request_id="r", request_digest=b"d")
        again = await driver.try_insert(request_id="r", request_digest=b"d")
        assert not again.created
        assert again.operation == first
        assert await driver.names() == [first.name]

    @pytest.mark.parametrize("outcome", cases({**ENDINGS, **PAUSES}))
    async def test_a_request_id_gives_the_operation_as_it_is_now(
        self, driver: Driver, outcome: Outcome
    ) -> None:
        after = await driver.run(outcome, request_id="r")
        again = await driver.try_insert(request_id="r")
        assert not again.created
        assert again.operation == after

    async def test_concurrent_inserts_of_one_request_id_give_one_operation(
        self, driver: Driver, store: OperationStore, other: OperationStore
    ) -> None:
        drivers = [Driver(store, driver.clock), Driver(other, driver.clock)] * 10
        results = await asyncio.gather(
            *(it.try_insert(driver.new(request_id="r", request_digest=b"d")) for it in drivers)
        )
        assert sum(it.created for it in results) == 1
        assert len({it.operation.name for it in results}) == 1
        assert len(await driver.names()) == 1

    async def test_a_request_id_with_another_request_is_refused_and_nothing_is_kept(
        self, driver: Driver, store: OperationStore
    ) -> None:
        first = await driver.insert(request_id="r", request_digest=b"d")
        refused = driver.new(request_id="r", request_digest=b"e", exclusive_key="k")
        with pytest.raises(RequestIdReusedError):
            await driver.try_insert(refused)
        await _assert_not_kept(driver, refused)
        assert await driver.names() == [first.name]
        await driver.insert(exclusive_key="k")

    @pytest.mark.parametrize(
        "difference",
        [{"principal": "bob"}, {"parent": "shelves/1"}, {"method": OTHER_METHOD}],
        ids=str,
    )
    async def test_a_request_id_is_another_one_elsewhere(
        self, driver: Driver, difference: dict[str, Any]
    ) -> None:
        await driver.insert(request_id="r", request_digest=b"d")
        inserted = await driver.try_insert(request_id="r", request_digest=b"e", **difference)
        assert inserted.created

    async def test_operations_without_a_request_id_are_all_new(self, driver: Driver) -> None:
        for _ in range(3):
            await driver.insert(request_id="")
        assert len(await driver.names()) == 3

    async def test_deleting_frees_the_request_id_at_once(
        self, driver: Driver, store: OperationStore
    ) -> None:
        hidden = await driver.start(request_id="r", request_digest=b"d")
        await store.delete(hidden.operation.name)
        second = await driver.insert(request_id="r", request_digest=b"e")
        await store.finish(hidden.lease, Released())
        again = await driver.try_insert(request_id="r", request_digest=b"e")
        assert again.operation == second
        assert await driver.names() == [second.name]

    async def test_expiry_frees_the_request_id_at_once(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        old = await driver.run(Succeeded(RESPONSE), request_id="r", request_digest=b"d")
        await clock.advance(old.retention.total_seconds())
        new = await driver.insert(request_id="r", request_digest=b"e")
        await store.expire(100)
        again = await driver.try_insert(request_id="r", request_digest=b"e")
        assert not again.created
        assert again.operation == new
        with pytest.raises(OperationNotFoundError):
            await store.get(old.name)


class ExclusiveContract(ContractFixtures):
    """An exclusive_key has one operation at a time."""

    @pytest.mark.parametrize("outcome", cases({"pending": None, **PAUSES}))
    async def test_an_exclusive_key_is_held_while_waiting(
        self, driver: Driver, outcome: Outcome | None
    ) -> None:
        if outcome is None:
            holder = await driver.insert(exclusive_key="k")
        else:
            holder = await driver.run(outcome, exclusive_key="k")
        refused = driver.new(
            exclusive_key="k", request_id="r", principal="bob", method=OTHER_METHOD
        )
        with pytest.raises(ExclusiveConflictError) as caught:
            await driver.try_insert(refused)
        assert caught.value.metadata["operation"] == holder.name
        await _assert_not_kept(driver, refused)
        await driver.insert(request_id="r", principal="bob", method=OTHER_METHOD)

    async def test_an_exclusive_key_is_held_while_running(self, driver: Driver) -> None:
        await driver.start(exclusive_key="k")
        with pytest.raises(ExclusiveConflictError):
            await driver.try_insert(exclusive_key="k")

    @pytest.mark.parametrize("outcome", cases(ENDINGS))
    async def test_an_exclusive_key_is_free_when_its_holder_is_done(
        self, driver: Driver, outcome: Outcome
    ) -> None:
        await driver.run(outcome, exclusive_key="k")
        await driver.insert(exclusive_key="k")
        with pytest.raises(ExclusiveConflictError):
            await driver.try_insert(exclusive_key="k")

    async def test_an_exclusive_key_is_free_when_its_holder_is_cancelled_before_it_ran(
        self, driver: Driver, store: OperationStore
    ) -> None:
        await store.request_cancel((await driver.insert(exclusive_key="k")).name)
        await driver.insert(exclusive_key="k")

    async def test_a_deleted_operation_holds_its_exclusive_key_until_it_is_done(
        self, driver: Driver, store: OperationStore
    ) -> None:
        claim = await driver.start(exclusive_key="k")
        with pytest.raises(ExclusiveConflictError, match="cancel it"):
            await driver.try_insert(exclusive_key="k")
        await store.delete(claim.operation.name)
        with pytest.raises(ExclusiveConflictError, match="which was deleted"):
            await driver.try_insert(exclusive_key="k")
        await store.finish(claim.lease, Succeeded(RESPONSE))
        await driver.insert(exclusive_key="k")

    async def test_forgetting_an_earlier_holder_leaves_the_exclusive_key_held(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        deleted = await driver.run(Succeeded(RESPONSE), exclusive_key="k")
        await driver.run(Succeeded(RESPONSE), exclusive_key="k", retention=timedelta())
        await driver.insert(exclusive_key="k")
        await store.delete(deleted.name)
        assert await store.expire(10) == 1
        with pytest.raises(ExclusiveConflictError):
            await driver.try_insert(exclusive_key="k")

    async def test_other_exclusive_keys_and_none_are_independent(self, driver: Driver) -> None:
        for key in ("k", "k2", "", ""):
            await driver.insert(exclusive_key=key)

    async def test_of_concurrent_inserts_of_one_exclusive_key_one_succeeds(
        self, driver: Driver, store: OperationStore, other: OperationStore
    ) -> None:
        drivers = [Driver(store, driver.clock), Driver(other, driver.clock)] * 5
        results = await asyncio.gather(
            *(it.try_insert(driver.new(exclusive_key="k")) for it in drivers),
            return_exceptions=True,
        )
        refused = [it for it in results if isinstance(it, ExclusiveConflictError)]
        assert len(refused) == len(results) - 1
        assert len(await driver.names()) == 1

    async def test_a_repeated_request_is_no_conflict_with_itself(self, driver: Driver) -> None:
        first = await driver.insert(request_id="r", exclusive_key="k")
        again = await driver.try_insert(request_id="r", exclusive_key="k")
        assert again.operation == first


class QueueLimitContract(ContractFixtures):
    """`max_pending` bounds the queue."""

    async def test_a_full_queue_refuses_and_nothing_is_kept(self, driver: Driver) -> None:
        for _ in range(2):
            await driver.insert(max_pending=2)
        refused = driver.new(exclusive_key="k", request_id="r")
        with pytest.raises(QueueFullError):
            await driver.try_insert(refused, max_pending=2)
        await _assert_not_kept(driver, refused)
        await driver.insert(exclusive_key="k", request_id="r")

    async def test_everything_pending_counts(self, driver: Driver, store: OperationStore) -> None:
        await driver.insert(method=OTHER_METHOD, principal="bob")
        await driver.insert(ready_time=driver.clock.now() + timedelta(days=1))
        await store.delete((await driver.insert()).name)
        with pytest.raises(QueueFullError):
            await driver.try_insert(max_pending=3)
        await driver.insert(max_pending=4)

    async def test_an_operation_that_waits_for_a_retry_counts(self, driver: Driver) -> None:
        await driver.run(PAUSES["retry"])
        with pytest.raises(QueueFullError):
            await driver.try_insert(max_pending=1)

    async def test_what_runs_or_is_done_does_not_count(self, driver: Driver) -> None:
        await driver.run(Succeeded(RESPONSE))
        await driver.start()
        await driver.insert(max_pending=1)

    async def test_a_method_that_has_its_fill_refuses_and_others_do_not(
        self, driver: Driver
    ) -> None:
        await driver.insert(method=OTHER_METHOD)
        for _ in range(2):
            await driver.insert(max_pending=10, max_pending_in_method=2)
        refused = driver.new(exclusive_key="k", request_id="r")
        with pytest.raises(QueueFullError, match=METHOD):
            await driver.try_insert(refused, max_pending=10, max_pending_in_method=2)
        await _assert_not_kept(driver, refused)  # claims what waits
        await driver.insert(method=OTHER_METHOD, max_pending_in_method=1)
        with pytest.raises(QueueFullError):
            await driver.insert(max_pending=1, max_pending_in_method=2)
        await driver.insert(max_pending=2, max_pending_in_method=1)

    async def test_a_redriven_operation_counts_for_its_method(self, driver: Driver) -> None:
        failed = (await driver.run(Failed(ERROR))).name
        redriven, inserted = await asyncio.gather(
            driver.store.redrive(failed, "again", max_pending=10),
            driver.try_insert(max_pending=10, max_pending_in_method=2),
        )
        assert redriven.created and inserted.created
        with pytest.raises(QueueFullError):
            await driver.try_insert(max_pending=10, max_pending_in_method=2)

    async def test_a_limit_of_nothing_refuses_everything(self, driver: Driver) -> None:
        with pytest.raises(QueueFullError):
            await driver.try_insert(max_pending=0)

    async def test_a_repeated_request_is_answered_although_the_queue_is_full(
        self, driver: Driver
    ) -> None:
        first = await driver.insert(request_id="r", max_pending=1)
        again = await driver.try_insert(request_id="r", max_pending=1)
        assert again.operation == first

    async def test_concurrent_inserts_never_exceed_the_limit_of_their_method(
        self, driver: Driver
    ) -> None:
        methods = [METHOD, OTHER_METHOD] * 5
        results = await asyncio.gather(
            *(
                driver.try_insert(method=method, max_pending=9, max_pending_in_method=3)
                for method in methods
            ),
            return_exceptions=True,
        )
        refused = [it for it in results if isinstance(it, QueueFullError)]
        assert len(refused) == 4
        assert len(await driver.names()) == 6

    async def test_concurrent_inserts_never_exceed_the_limit(
        self, driver: Driver, store: OperationStore
    ) -> None:
        results = await asyncio.gather(
            *(driver.try_insert(max_pending=3) for _ in range(10)), return_exceptions=True
        )
        assert sum(isinstance(it, QueueFullError) for it in results) == 7
        assert len(await driver.names()) == 3


async def _assert_not_kept(driver: Driver, refused: Operation) -> None:
    with pytest.raises(OperationNotFoundError):
        await driver.store.get(refused.name)
    assert refused.name not in await driver.names(refused.parent)
    claims = await driver.claim(methods=(METHOD, OTHER_METHOD))
    assert refused.name not in {claim.operation.name for claim in claims}
