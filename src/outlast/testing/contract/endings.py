"""What `finish`, `request_cancel`, `delete` and `expire` promise."""

import asyncio
from datetime import timedelta

import pytest

from outlast.domain import transitions
from outlast.domain.errors import LeaseLostError, OperationNotFoundError
from outlast.domain.operation import Operation, State
from outlast.domain.status import Payload
from outlast.domain.transitions import Failed, Outcome, Retry, Succeeded
from outlast.ports import OperationStore
from outlast.testing.clock import ManualClock
from outlast.testing.contract.driver import (
    ENDINGS,
    ERROR,
    PAUSES,
    RESPONSE,
    ContractFixtures,
    Driver,
    cases,
)


class FinishContract(ContractFixtures):
    """An attempt ends as `transitions.finish` says, once."""

    @pytest.mark.parametrize("outcome", cases({**ENDINGS, **PAUSES}))
    async def test_an_attempt_ends_as_the_outcome_says(
        self, driver: Driver, store: OperationStore, clock: ManualClock, outcome: Outcome
    ) -> None:
        claim = await driver.start(timeout=timedelta(minutes=5))
        await clock.advance(1)
        after = await store.finish(claim.lease, outcome)
        assert after == transitions.finish(claim.operation, claim.lease, outcome, clock.now())
        assert await store.get(claim.operation.name) == after

    @pytest.mark.parametrize("outcome", cases({**ENDINGS, **PAUSES}))
    async def test_an_attempt_that_was_to_be_cancelled_ends_as_the_outcome_says(
        self, driver: Driver, store: OperationStore, clock: ManualClock, outcome: Outcome
    ) -> None:
        claim = await driver.start()
        asked = await store.request_cancel(claim.operation.name)
        after = await store.finish(claim.lease, outcome)
        assert after == transitions.finish(asked, claim.lease, outcome, clock.now())
        assert after.done

    async def test_a_retry_of_the_last_attempt_ends_as_a_dead_letter(
        self, driver: Driver, store: OperationStore
    ) -> None:
        after = await driver.run(Retry(ERROR, timedelta()), max_attempts=1)
        assert after.state is State.FAILED
        assert after.dead_letter
        assert after.error == ERROR

    async def test_a_retry_past_the_deadline_ends_the_operation(self, driver: Driver) -> None:
        after = await driver.run(PAUSES["retry"], timeout=timedelta(seconds=5))
        assert after.state is State.FAILED
        assert after.error == transitions.DEADLINE_EXCEEDED

    async def test_a_response_without_bytes_is_a_response(
        self, driver: Driver, store: OperationStore
    ) -> None:
        empty = Succeeded(Payload("google.protobuf.Empty"))
        name = (await driver.run(empty)).name
        assert (await store.get(name)).response == Payload("google.protobuf.Empty")

    async def test_of_concurrent_finishes_one_succeeds(
        self, driver: Driver, store: OperationStore, other: OperationStore
    ) -> None:
        claim = await driver.start()
        outcomes: list[Outcome] = [Succeeded(RESPONSE), Failed(ERROR)] * 5
        results = await asyncio.gather(
            *(
                it.finish(claim.lease, outcome)
                for it, outcome in zip([store, other] * 5, outcomes, strict=True)
            ),
            return_exceptions=True,
        )
        (winner,) = [it for it in results if isinstance(it, Operation)]
        assert sum(isinstance(it, LeaseLostError) for it in results) == len(results) - 1
        assert await store.get(winner.name) == winner

    @pytest.mark.parametrize("outcome", cases(ENDINGS))
    async def test_done_is_final(
        self, driver: Driver, store: OperationStore, clock: ManualClock, outcome: Outcome
    ) -> None:
        claim = await driver.start()
        done = await store.finish(claim.lease, outcome)
        await clock.advance(60)
        await store.request_cancel(done.name)
        await store.renew([claim.lease], timedelta(seconds=30))
        await driver.claim("worker-2")
        with pytest.raises(LeaseLostError):
            await store.finish(claim.lease, Succeeded(RESPONSE))
        assert await store.get(done.name) == done

    async def test_a_clock_that_went_back_does_not_turn_back_a_record(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        claim = await driver.start()
        clock.jump(-3600)
        after = await store.finish(claim.lease, Succeeded(RESPONSE))
        assert after.end_time == claim.operation.update_time
        assert await store.get(after.name) == after


class CancelContract(ContractFixtures):
    """A request to stop is kept; what has not started ends at once."""

    async def test_what_waits_ends_at_once(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        operation = await driver.insert()
        await clock.advance(1)
        after = await store.request_cancel(operation.name)
        assert after == transitions.request_cancel(operation, clock.now())
        assert after.state is State.CANCELLED
        assert await store.get(operation.name) == after
        assert await driver.claim() == []

    async def test_what_waits_for_a_retry_ends_at_once(
        self, driver: Driver, store: OperationStore
    ) -> None:
        waiting = await driver.run(PAUSES["retry"])
        assert (await store.request_cancel(waiting.name)).state is State.CANCELLED

    async def test_what_runs_goes_on_until_its_worker_ends_it(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        claim = await driver.start()
        await clock.advance(1)
        after = await store.request_cancel(claim.operation.name)
        assert after == transitions.request_cancel(claim.operation, clock.now())
        assert after.state is State.RUNNING
        assert await store.get(after.name) == after
        await store.finish(claim.lease, Succeeded(RESPONSE))
        assert await driver.states(after.name) == [State.SUCCEEDED]

    async def test_asking_twice_changes_nothing(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        claim = await driver.start()
        first = await store.request_cancel(claim.operation.name)
        await clock.advance(1)
        assert await store.request_cancel(claim.operation.name) == first
        assert await store.get(first.name) == first

    @pytest.mark.parametrize("outcome", cases(ENDINGS))
    async def test_what_is_done_stays_as_it_is(
        self, driver: Driver, store: OperationStore, clock: ManualClock, outcome: Outcome
    ) -> None:
        done = await driver.run(outcome)
        await clock.advance(1)
        assert await store.request_cancel(done.name) == done
        assert await store.get(done.name) == done

    async def test_what_is_unknown_or_hidden_is_not_found(
        self, driver: Driver, store: OperationStore
    ) -> None:
        hidden = (await driver.insert()).name
        await store.delete(hidden)
        for name in ("operations/none", hidden):
            with pytest.raises(OperationNotFoundError):
                await store.request_cancel(name)
        assert len(await driver.claim()) == 1


class DeleteContract(ContractFixtures):
    """Deleting hides; work that is under way goes on unseen."""

    @pytest.mark.parametrize("state", ["pending", "running", *ENDINGS, *PAUSES])
    async def test_a_deleted_operation_is_invisible_at_once(
        self, driver: Driver, store: OperationStore, other: OperationStore, state: str
    ) -> None:
        outcomes = {**ENDINGS, **PAUSES}
        if state == "pending":
            name = (await driver.insert()).name
        elif state == "running":
            name = (await driver.start()).operation.name
        else:
            name = (await driver.run(outcomes[state])).name
        await store.delete(name)
        for reader in (store, other):
            for read in (reader.get, reader.attempts, reader.request_cancel, reader.delete):
                with pytest.raises(OperationNotFoundError):
                    await read(name)
            assert await reader.get_many([name]) == {}
        assert await driver.names() == []

    async def test_an_unknown_operation_cannot_be_deleted(self, store: OperationStore) -> None:
        with pytest.raises(OperationNotFoundError):
            await store.delete("operations/none")

    @pytest.mark.parametrize("outcome", cases({**ENDINGS, **PAUSES}))
    async def test_finishing_does_not_bring_a_deleted_operation_back(
        self, driver: Driver, store: OperationStore, clock: ManualClock, outcome: Outcome
    ) -> None:
        claim = await driver.start()
        await store.record_step(claim.lease, "a", RESPONSE)
        await store.delete(claim.operation.name)
        hidden = transitions.delete(claim.operation)
        after = await store.finish(claim.lease, outcome)
        assert after == transitions.finish(hidden, claim.lease, outcome, clock.now())
        with pytest.raises(OperationNotFoundError):
            await store.get(after.name)
        assert await driver.names() == []
        assert (await store.steps(after.name) == {}) == after.done

    async def test_what_is_done_is_forgotten_at_once(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        claim = await driver.start()
        await store.record_step(claim.lease, "a", RESPONSE)
        done = await store.finish(claim.lease, Failed(ERROR, dead_letter=True))
        await store.delete(done.name)
        assert await store.steps(done.name) == {}
        assert not any(it.dead_letters for it in await store.stats())
        await clock.advance(done.retention.total_seconds())
        assert await store.expire(10) == 0

    async def test_deleting_one_leaves_the_others(
        self, driver: Driver, store: OperationStore
    ) -> None:
        kept = await driver.start()
        await store.record_step(kept.lease, "a", RESPONSE)
        await store.delete((await driver.run(Succeeded(RESPONSE))).name)
        assert await store.get(kept.operation.name) == kept.operation
        assert await store.steps(kept.operation.name) == {"a": RESPONSE}


class ExpireContract(ContractFixtures):
    """What has expired is forgotten in bites, with all it owns."""

    async def test_only_what_has_expired_is_forgotten(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        await driver.run(Succeeded(RESPONSE), retention=timedelta(minutes=1))
        kept = await driver.run(Succeeded(RESPONSE), retention=timedelta(minutes=2))
        claim = await driver.start(retention=timedelta())
        pending = await driver.insert(retention=timedelta())
        assert await store.expire(10) == 0
        await clock.advance(60)
        assert await store.expire(10) == 1
        assert await store.expire(10) == 0
        names = [kept.name, claim.operation.name, pending.name]
        assert await driver.names() == names

    async def test_no_more_are_forgotten_than_the_limit(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        for _ in range(5):
            await driver.run(Succeeded(RESPONSE), retention=timedelta(minutes=1))
        await clock.advance(60)
        assert [await store.expire(2) for _ in range(4)] == [2, 2, 1, 0]

    async def test_what_an_expired_operation_owns_goes_with_it(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        claim = await driver.start(retention=timedelta(minutes=1))
        await store.record_step(claim.lease, "a", RESPONSE)
        await store.finish(claim.lease, Failed(ERROR, dead_letter=True))
        await clock.advance(60)
        assert await store.expire(10) == 1
        assert await store.steps(claim.operation.name) == {}
        assert not any(it.dead_letters for it in await store.stats())

    async def test_a_forgotten_name_is_free(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        old = await driver.run(PAUSES["retry"], retention=timedelta(minutes=1))
        await clock.advance(5)
        claim = await driver.claim_one()
        await store.record_step(claim.lease, "a", RESPONSE)
        await store.finish(claim.lease, Succeeded(RESPONSE))
        await clock.advance(60)
        await store.expire(10)
        new = await driver.insert(name=old.name)
        assert await store.get(old.name) == new
        assert await store.attempts(old.name) == []
        assert await store.steps(old.name) == {}

    async def test_without_retention_an_operation_expires_when_it_ends(
        self, driver: Driver, store: OperationStore
    ) -> None:
        name = (await driver.run(Succeeded(RESPONSE), retention=timedelta())).name
        with pytest.raises(OperationNotFoundError):
            await store.get(name)
        assert await store.expire(10) == 1
