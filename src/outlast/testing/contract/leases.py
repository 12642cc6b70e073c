"""What `renew`, `record_progress`, `record_step` and `steps` promise."""

import threading
from datetime import timedelta

import pytest

from outlast.domain import transitions
from outlast.domain.errors import OperationNotFoundError, StoreUnavailableError
from outlast.domain.operation import Lease, Progress
from outlast.domain.status import Payload
from outlast.domain.transitions import Outcome, Released, Succeeded
from outlast.ports import OperationStore, Renewal
from outlast.testing.clock import ManualClock
from outlast.testing.contract.driver import (
    ENDINGS,
    LEASE,
    PAUSES,
    RESPONSE,
    ContractFixtures,
    Driver,
    cases,
)

METADATA = Payload("example.v1.Metadata", b"\x01\x00")


class RenewContract(ContractFixtures):
    """A renewed lease runs on; the worker hears what it has lost and what is to stop."""

    async def test_a_renewed_lease_runs_from_now(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        claim = await driver.start()
        await clock.advance(20)
        assert await store.renew([claim.lease], LEASE) == Renewal()
        await clock.advance(LEASE.total_seconds() - 0.000001)
        assert await driver.claim("worker-2") == []
        await clock.advance(0.000001)
        assert len(await driver.claim("worker-2")) == 1

    async def test_a_lease_is_renewed_from_another_thread_while_the_loop_stands_still(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        """A store may leave it out, and then says that it is not available."""
        claim, other = await driver.start(), Lease("operations/unknown", 1)
        await clock.advance(20)
        renewals: list[Renewal] = []
        errors: list[Exception] = []

        def renew() -> None:
            try:
                renewals.append(store.renew_from_thread([claim.lease, other], LEASE))
            except StoreUnavailableError as error:
                errors.append(error)

        thread = threading.Thread(target=renew)
        thread.start()
        thread.join()  # on the loop, which can do nothing meanwhile
        assert renewals == [Renewal(lost=frozenset({other}))] or errors
        await clock.advance(15)
        assert len(await driver.claim("worker-2")) == len(errors)

    async def test_a_lease_can_be_renewed_to_end_sooner(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        claim = await driver.start()
        await store.renew([claim.lease], timedelta(seconds=1))
        await clock.advance(1)
        assert len(await driver.claim("worker-2")) == 1

    async def test_a_renewal_changes_nothing_that_a_reader_sees(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        claim = await driver.start()
        await clock.advance(1)
        await store.renew([claim.lease], LEASE)
        after = await store.get(claim.operation.name)
        assert after == claim.operation.evolve(ready_time=clock.now() + LEASE)

    async def test_a_lease_that_ran_out_is_renewed_if_nobody_took_over(
        self, driver: Driver, store: OperationStore
    ) -> None:
        claim = await driver.start()
        await driver.lose_lease()
        assert await store.renew([claim.lease], LEASE) == Renewal()
        assert await driver.claim("worker-2") == []

    async def test_a_renewal_says_which_leases_are_lost(
        self, driver: Driver, store: OperationStore
    ) -> None:
        taken_over = await driver.start()
        await driver.lose_lease()
        new = await driver.claim_one("worker-2")
        done = await driver.start()
        await store.finish(done.lease, Succeeded(RESPONSE))
        held = await driver.start()
        never = Lease("operations/none", 1)
        from_the_future = Lease(held.operation.name, held.lease.epoch + 1)
        before = await store.get_many([new.operation.name, done.operation.name])
        renewal = await store.renew(
            [taken_over.lease, done.lease, held.lease, never, from_the_future], LEASE
        )
        assert renewal.lost == {taken_over.lease, done.lease, never, from_the_future}
        assert not renewal.cancel_requested
        assert await store.get_many(list(before)) == before

    async def test_a_renewal_says_what_is_to_be_cancelled_each_time(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        asked = await driver.start()
        untouched = await driver.start()
        await store.request_cancel(asked.operation.name)
        for _ in range(2):
            await clock.advance(20)
            renewal = await store.renew([asked.lease, untouched.lease], LEASE)
            assert renewal == Renewal(cancel_requested=frozenset({asked.lease}))
        assert await driver.claim("worker-2") == []

    async def test_a_lost_lease_is_not_to_be_cancelled_as_well(
        self, driver: Driver, store: OperationStore
    ) -> None:
        lost = await driver.start()
        await driver.lose_lease()
        new = await driver.claim_one("worker-2")
        await store.request_cancel(new.operation.name)
        renewal = await store.renew([lost.lease, new.lease], LEASE)
        assert renewal == Renewal(frozenset({lost.lease}), frozenset({new.lease}))

    async def test_leases_on_hidden_work_are_renewed(
        self, driver: Driver, store: OperationStore
    ) -> None:
        claim = await driver.start()
        await store.delete(claim.operation.name)
        await driver.lose_lease()
        assert await store.renew([claim.lease], LEASE) == Renewal()
        assert await driver.claim("worker-2") == []

    async def test_renewing_nothing_is_fine(self, store: OperationStore) -> None:
        assert await store.renew([], LEASE) == Renewal()

    async def test_as_many_leases_are_renewed_as_a_worker_has(
        self, driver: Driver, store: OperationStore
    ) -> None:
        for _ in range(1000):
            await driver.insert()
        leases = [claim.lease for claim in await driver.claim(limit=1000)]
        assert len(leases) == 1000
        await driver.lose_lease()
        assert await store.renew(leases, LEASE) == Renewal()
        assert await driver.claim("worker-2") == []


class ProgressContract(ContractFixtures):
    """Progress is recorded as it was reported."""

    async def test_progress_and_metadata_are_recorded(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        claim = await driver.start()
        await clock.advance(1)
        progress = Progress(3, 7, "binding", "sewn: 3 ☃", clock.now() + timedelta(seconds=9))
        after = await store.record_progress(claim.lease, progress, METADATA)
        assert after == transitions.report(
            claim.operation, claim.lease, progress, METADATA, clock.now()
        )
        assert await store.get(claim.operation.name) == after

    async def test_without_a_progress_the_last_one_stays(
        self, driver: Driver, store: OperationStore
    ) -> None:
        claim = await driver.start()
        await store.record_progress(claim.lease, Progress(1, 2), METADATA)
        after = await store.record_progress(claim.lease, None, Payload("m"))
        assert after.progress == Progress(1, 2)
        assert after.metadata == Payload("m")
        assert await store.get(claim.operation.name) == after

    async def test_large_counts_are_recorded(self, driver: Driver, store: OperationStore) -> None:
        claim = await driver.start()
        await store.record_progress(claim.lease, Progress(2**62, 2**63 - 1), METADATA)
        assert (await store.get(claim.operation.name)).progress == Progress(2**62, 2**63 - 1)

    async def test_progress_of_hidden_work_is_recorded_and_stays_hidden(
        self, driver: Driver, store: OperationStore
    ) -> None:
        claim = await driver.start()
        await store.delete(claim.operation.name)
        after = await store.record_progress(claim.lease, Progress(1, 2), METADATA)
        assert after.deleted
        assert after.progress == Progress(1, 2)
        with pytest.raises(OperationNotFoundError):
            await store.get(claim.operation.name)

    async def test_progress_survives_a_retry(self, driver: Driver, store: OperationStore) -> None:
        claim = await driver.start()
        await store.record_progress(claim.lease, Progress(1, 2), METADATA)
        await store.finish(claim.lease, Released())
        again = await driver.claim_one("worker-2")
        assert again.operation.progress == Progress(1, 2)
        assert again.operation.metadata == METADATA


class StepContract(ContractFixtures):
    """The result of a step is recorded once and outlives the attempt."""

    async def test_steps_are_recorded_by_key_and_operation(
        self, driver: Driver, store: OperationStore
    ) -> None:
        first = await driver.start()
        second = await driver.start()
        await store.record_step(first.lease, "a", Payload("t", bytes(range(256))))
        await store.record_step(first.lease, "b ☃", Payload("", b""))
        await store.record_step(second.lease, "a", Payload("u", b"2"))
        assert await store.steps(first.operation.name) == {
            "a": Payload("t", bytes(range(256))),
            "b ☃": Payload("", b""),
        }
        assert await store.steps(second.operation.name) == {"a": Payload("u", b"2")}

    async def test_the_first_result_under_a_key_stays(
        self, driver: Driver, store: OperationStore
    ) -> None:
        claim = await driver.start()
        await store.record_step(claim.lease, "a", Payload("t", b"1"))
        await store.record_step(claim.lease, "a", Payload("t", b"2"))
        assert await store.steps(claim.operation.name) == {"a": Payload("t", b"1")}

    async def test_steps_that_were_handed_out_never_change(
        self, driver: Driver, store: OperationStore
    ) -> None:
        claim = await driver.start()
        await store.record_step(claim.lease, "a", RESPONSE)
        steps = await store.steps(claim.operation.name)
        await store.record_step(claim.lease, "b", RESPONSE)
        assert steps == {"a": RESPONSE}

    async def test_an_operation_without_steps_or_unknown_has_none(
        self, driver: Driver, store: OperationStore
    ) -> None:
        assert await store.steps((await driver.insert()).name) == {}
        assert await store.steps("operations/none") == {}

    async def test_a_recorded_step_is_no_change_that_a_reader_sees(
        self, driver: Driver, store: OperationStore
    ) -> None:
        claim = await driver.start()
        await store.record_step(claim.lease, "a", RESPONSE)
        assert await store.get(claim.operation.name) == claim.operation

    @pytest.mark.parametrize("outcome", cases({**PAUSES, **ENDINGS}))
    async def test_steps_outlive_the_attempt(
        self, driver: Driver, store: OperationStore, outcome: Outcome
    ) -> None:
        claim = await driver.start()
        await store.record_step(claim.lease, "a", RESPONSE)
        await store.finish(claim.lease, outcome)
        assert await store.steps(claim.operation.name) == {"a": RESPONSE}

    async def test_steps_outlive_a_lost_lease(self, driver: Driver, store: OperationStore) -> None:
        claim = await driver.start()
        await store.record_step(claim.lease, "a", RESPONSE)
        await driver.lose_lease()
        again = await driver.claim_one("worker-2")
        await store.record_step(again.lease, "b", RESPONSE)
        assert await store.steps(claim.operation.name) == {"a": RESPONSE, "b": RESPONSE}

    async def test_hidden_work_has_steps(self, driver: Driver, store: OperationStore) -> None:
        claim = await driver.start()
        await store.record_step(claim.lease, "a", RESPONSE)
        await store.delete(claim.operation.name)
        await store.record_step(claim.lease, "b", RESPONSE)
        assert await store.steps(claim.operation.name) == {"a": RESPONSE, "b": RESPONSE}
