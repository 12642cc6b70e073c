"""What `redrive` promises."""

import asyncio
from datetime import timedelta

import pytest

from outlast.domain.errors import (
    ExclusiveConflictError,
    NotRedrivableError,
    OperationNotFoundError,
    QueueFullError,
)
from outlast.domain.operation import Operation, Progress, State
from outlast.domain.status import Payload
from outlast.domain.transitions import Cancelled, Failed, Outcome, Succeeded
from outlast.ports import Inserted, OperationStore
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

_DEAD = Failed(ERROR, dead_letter=True)
_UNSUCCESSFUL = {name: it for name, it in ENDINGS.items() if name != "succeeded"}
_METADATA = Payload("example.v1.Metadata", b"\x00\xff")


class RedriveContract(ContractFixtures):
    """What failed or was cancelled is done again by a new operation."""

    @pytest.mark.parametrize("outcome", cases(_UNSUCCESSFUL))
    async def test_a_redrive_takes_over_what_the_operation_is_and_begins_anew(
        self, driver: Driver, store: OperationStore, clock: ManualClock, outcome: Outcome
    ) -> None:
        claim = await driver.start(
            parent="presses/1",
            principal="ada",
            request_id="r",
            request_digest=b"d",
            target="books/1",
            exclusive_key="k",
            max_attempts=1,
            timeout=timedelta(minutes=3),
            retention=timedelta(days=5),
        )
        await store.record_progress(claim.lease, Progress(1, 2), _METADATA)
        old = await store.finish(claim.lease, outcome)
        await clock.advance(60)
        now = clock.now()
        redriven = await store.redrive(old.name, "again")
        expected = Operation(
            name="presses/1/operations/again",
            parent="presses/1",
            method=METHOD,
            create_time=now,
            update_time=now,
            ready_time=now,
            principal="ada",
            target="books/1",
            exclusive_key="k",
            max_attempts=1,
            timeout=timedelta(minutes=3),
            retention=timedelta(days=5),
            retried_from=old.name,
            metadata=_METADATA,
        )
        assert redriven == Inserted(expected, created=True)
        assert await store.get(expected.name) == expected
        assert await store.attempts(expected.name) == []

    async def test_a_redrive_has_the_request_and_the_steps_of_the_operation(
        self, driver: Driver, store: OperationStore, other: OperationStore
    ) -> None:
        claim = await driver.start()
        await store.record_step(claim.lease, "a", RESPONSE)
        await store.record_step(claim.lease, "b", _METADATA)
        await store.finish(claim.lease, _DEAD)
        name = (await store.redrive(claim.operation.name, "again")).operation.name
        assert await other.steps(name) == {"a": RESPONSE, "b": _METADATA}
        again = await driver.claim_one()
        assert again.operation.name == name
        assert again.request == claim.request

    async def test_the_steps_of_a_redrive_are_its_own(
        self, driver: Driver, store: OperationStore
    ) -> None:
        claim = await driver.start()
        await store.record_step(claim.lease, "a", RESPONSE)
        old = await store.finish(claim.lease, _DEAD)
        await store.redrive(old.name, "again")
        again = await driver.claim_one()
        await store.record_step(again.lease, "b", RESPONSE)
        assert await store.steps(old.name) == {"a": RESPONSE}
        await store.delete(old.name)
        assert await store.steps(again.operation.name) == {"a": RESPONSE, "b": RESPONSE}

    async def test_the_old_operation_stays_as_it_is(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        old = await driver.run(_DEAD)
        before = await store.attempts(old.name)
        await clock.advance(1)
        await store.redrive(old.name, "again")
        await store.finish((await driver.claim_one()).lease, Succeeded(RESPONSE))
        assert await store.get(old.name) == old
        assert await store.attempts(old.name) == before

    async def test_a_redrive_that_failed_can_be_redriven_itself(
        self, driver: Driver, store: OperationStore
    ) -> None:
        first = await driver.run(_DEAD)
        await store.redrive(first.name, "second")
        second = await store.finish((await driver.claim_one()).lease, _DEAD)
        third = (await store.redrive(second.name, "third")).operation
        assert third.retried_from == second.name

    async def test_what_waits_cannot_be_redriven(
        self, driver: Driver, store: OperationStore
    ) -> None:
        with pytest.raises(NotRedrivableError):
            await store.redrive((await driver.insert()).name, "again")

    @pytest.mark.parametrize("outcome", cases(PAUSES))
    async def test_what_waits_for_another_attempt_cannot_be_redriven(
        self, driver: Driver, store: OperationStore, outcome: Outcome
    ) -> None:
        with pytest.raises(NotRedrivableError):
            await store.redrive((await driver.run(outcome)).name, "again")

    async def test_what_runs_or_has_succeeded_cannot_be_redriven(
        self, driver: Driver, store: OperationStore
    ) -> None:
        claim = await driver.start()
        for state in (State.RUNNING, State.SUCCEEDED):
            with pytest.raises(NotRedrivableError) as caught:
                await store.redrive(claim.operation.name, "again")
            assert caught.value.metadata == {"name": claim.operation.name, "state": state}
            if state is State.RUNNING:
                await store.finish(claim.lease, Succeeded(RESPONSE))
        assert await driver.names() == [claim.operation.name]

    async def test_what_is_not_visible_is_not_found(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        deleted = await driver.run(_DEAD)
        await store.delete(deleted.name)
        expired = await driver.run(_DEAD, retention=timedelta(seconds=1))
        await clock.advance(1)
        for name in ("operations/none", deleted.name, expired.name):
            with pytest.raises(OperationNotFoundError):
                await store.redrive(name, "again")

    async def test_a_redrive_that_is_not_done_is_returned_instead_of_another_one(
        self, driver: Driver, store: OperationStore
    ) -> None:
        old = await driver.run(_DEAD)
        first = (await store.redrive(old.name, "first")).operation
        assert await store.redrive(old.name, "second") == Inserted(first, created=False)
        running = (await driver.claim_one()).operation
        assert await store.redrive(old.name, "second") == Inserted(running, created=False)

    async def test_after_its_redrive_an_operation_may_be_redriven_again_if_that_is_asked(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        old = await driver.run(_DEAD)
        await store.redrive(old.name, "first")
        first = await store.finish((await driver.claim_one()).lease, Succeeded(RESPONSE))
        assert await store.redrive(old.name, "second", again=False) == Inserted(
            first, created=False
        )
        await clock.advance(1)
        second = await store.redrive(old.name, "second")
        assert second.created
        for _ in range(2):
            newest = await store.redrive(old.name, "third", again=False)
            assert newest == Inserted(second.operation, created=False)
            second = Inserted(await store.request_cancel(second.operation.name), created=False)

    async def test_a_redrive_that_was_deleted_is_no_redrive(
        self, driver: Driver, store: OperationStore
    ) -> None:
        old = await driver.run(_DEAD)
        first = (await store.redrive(old.name, "first", again=False)).operation
        await store.delete(first.name)
        second = await store.redrive(old.name, "second", again=False)
        assert second.created
        await store.request_cancel(second.operation.name)
        await store.delete(second.operation.name)
        assert (await store.redrive(old.name, "third", again=False)).created

    async def test_the_same_call_made_again_returns_the_operation_as_it_is_now(
        self, driver: Driver, store: OperationStore
    ) -> None:
        old = await driver.run(_DEAD)
        await store.redrive(old.name, "first")
        done = await store.finish((await driver.claim_one()).lease, _DEAD)
        assert await store.redrive(old.name, "first") == Inserted(done, created=False)

    @pytest.mark.parametrize("again", [True, False])
    async def test_of_concurrent_redrives_one_is_kept_and_all_get_it(
        self, driver: Driver, store: OperationStore, other: OperationStore, again: bool
    ) -> None:
        old = await driver.run(_DEAD)
        redrives = await asyncio.gather(
            *(
                client.redrive(old.name, f"again-{number}-{side}", again=again)
                for number in range(10)
                for side, client in enumerate((store, other))
            )
        )
        assert sum(it.created for it in redrives) == 1
        assert len({it.operation.name for it in redrives}) == 1
        assert len(await driver.names()) == 2

    async def test_a_redrive_waits_its_turn_for_an_exclusive_key(
        self, driver: Driver, store: OperationStore
    ) -> None:
        old = await driver.run(_DEAD, exclusive_key="k")
        holder = await driver.insert(exclusive_key="k", method=OTHER_METHOD)
        with pytest.raises(ExclusiveConflictError) as caught:
            await store.redrive(old.name, "again")
        assert caught.value.metadata["operation"] == holder.name
        await store.request_cancel(holder.name)
        assert (await store.redrive(old.name, "again")).created
        with pytest.raises(ExclusiveConflictError):
            await driver.try_insert(exclusive_key="k")

    async def test_a_full_queue_refuses_a_redrive_and_nothing_is_kept(
        self, driver: Driver, store: OperationStore
    ) -> None:
        old = await driver.run(_DEAD)
        waiting = await driver.insert()
        with pytest.raises(QueueFullError):
            await store.redrive(old.name, "again", max_pending=1)
        assert set(await driver.names()) == {old.name, waiting.name}
        redriven = await store.redrive(old.name, "again", max_pending=2)
        assert await store.redrive(old.name, "more", max_pending=2) == Inserted(
            redriven.operation, created=False
        )

    async def test_a_method_that_has_its_fill_refuses_a_redrive_and_others_do_not(
        self, driver: Driver, store: OperationStore
    ) -> None:
        old = await driver.run(_DEAD)
        other = await driver.run(_DEAD, method=OTHER_METHOD)
        waiting = await driver.insert()
        limits = {METHOD: 1, OTHER_METHOD: 1}
        with pytest.raises(QueueFullError, match=METHOD):
            await store.redrive(old.name, "again", max_pending=9, max_pending_in_methods=limits)
        assert set(await driver.names()) == {old.name, other.name, waiting.name}
        assert (await store.redrive(other.name, "other", max_pending_in_methods=limits)).created
        del limits[METHOD]
        assert (await store.redrive(old.name, "again", max_pending_in_methods=limits)).created

    async def test_concurrent_redrives_never_exceed_the_limit_of_their_method(
        self, driver: Driver, store: OperationStore
    ) -> None:
        dead = [await driver.run(_DEAD) for _ in range(5)]
        results = await asyncio.gather(
            *(
                store.redrive(it.name, f"again-{number}", max_pending_in_methods={METHOD: 3})
                for number, it in enumerate(dead)
            ),
            return_exceptions=True,
        )
        assert sum(isinstance(it, Inserted) for it in results) == 3
        assert sum(isinstance(it, QueueFullError) for it in results) == 2

    async def test_concurrent_redrives_and_inserts_keep_to_a_limit_each(
        self, driver: Driver, store: OperationStore
    ) -> None:
        dead = [await driver.run(_DEAD) for _ in range(5)]
        for _ in range(3):
            await driver.insert()
        redrives = (store.redrive(it.name, f"again-{it.name[-4:]}", max_pending=1) for it in dead)
        inserts = (driver.try_insert(max_pending=5) for _ in dead)
        results = await asyncio.gather(*redrives, *inserts, return_exceptions=True)
        assert all(isinstance(it, QueueFullError) for it in results[:5])
        assert sum(isinstance(it, Inserted) for it in results[5:]) == 2

    async def test_a_redrive_is_told_of(self, driver: Driver, store: OperationStore) -> None:
        old = await driver.run(Cancelled())
        heard = asyncio.Event()
        unsubscribe = store.changes.subscribe(lambda _: heard.set())
        await store.redrive(old.name, "again")
        await asyncio.wait_for(heard.wait(), 20)
        unsubscribe()
