"""What `reap` promises."""

from datetime import timedelta

from outlast.domain import transitions
from outlast.domain.operation import Lease, State
from outlast.domain.transitions import Retry
from outlast.ports import OperationStore
from outlast.testing.clock import ManualClock
from outlast.testing.contract.driver import (
    ERROR,
    OTHER_METHOD,
    ContractFixtures,
    Driver,
)

TIMEOUT = timedelta(minutes=5)


class ReapContract(ContractFixtures):
    """What must not run again ends though nobody claims it."""

    async def test_what_was_to_stop_ends_when_its_lease_has_run_out(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        name = (await driver.start()).operation.name
        asked = await store.request_cancel(name)
        assert await store.reap(10) == 0
        await driver.lose_lease()
        assert await store.reap(10) == 1
        after = await store.get(name)
        assert after == transitions.reap(asked, clock.now())
        assert after.state is State.CANCELLED

    async def test_what_is_past_its_deadline_ends_when_its_lease_has_run_out(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        claim = await driver.start(timeout=TIMEOUT)
        await store.renew([claim.lease], TIMEOUT * 2)
        await clock.advance(TIMEOUT.total_seconds() + 1)
        assert await store.reap(10) == 0
        await clock.advance(TIMEOUT.total_seconds())
        assert await store.reap(10) == 1
        after = await store.get(claim.operation.name)
        assert after.error == transitions.DEADLINE_EXCEEDED

    async def test_a_retry_that_nobody_takes_ends_at_its_deadline(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        pause = Retry(ERROR, timedelta(minutes=1))
        name = (await driver.run(pause, timeout=TIMEOUT)).name
        await clock.advance(240)
        assert await store.reap(10) == 0
        await clock.advance(60)
        assert await store.reap(10) == 1
        assert (await store.get(name)).error == transitions.DEADLINE_EXCEEDED

    async def test_what_may_run_again_is_left_alone(
        self, driver: Driver, store: OperationStore
    ) -> None:
        lost = (await driver.start(timeout=TIMEOUT, max_attempts=1)).operation
        waiting = await driver.insert(timeout=TIMEOUT, method=OTHER_METHOD)
        await driver.lose_lease()
        assert await store.reap(10) == 0
        assert [await store.get(it.name) for it in (lost, waiting)] == [lost, waiting]

    async def test_what_lost_its_lease_only_by_a_jump_is_not_reaped(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        running = (await driver.start(timeout=TIMEOUT)).operation
        waiting = (await driver.run(Retry(ERROR, timedelta(0)), timeout=TIMEOUT)).name
        assert running.ready_time is not None
        await clock.advance(TIMEOUT.total_seconds())
        since = clock.now() - running.ready_time
        assert await store.reap(10, distrust=since + timedelta(seconds=1)) == 1
        assert await driver.states(running.name, waiting) == [State.RUNNING, State.FAILED]
        assert await store.reap(10, distrust=since) == 1

    async def test_no_more_are_reaped_than_asked_for(
        self, driver: Driver, store: OperationStore
    ) -> None:
        for _ in range(5):
            await driver.insert()
        for claim in await driver.claim():
            await store.request_cancel(claim.operation.name)
        await driver.lose_lease()
        assert [await store.reap(2) for _ in range(4)] == [2, 2, 1, 0]

    async def test_hidden_work_is_reaped_and_forgotten(
        self, driver: Driver, store: OperationStore
    ) -> None:
        claim = await driver.start(exclusive_key="shelf")
        await store.request_cancel(claim.operation.name)
        await store.delete(claim.operation.name)
        await driver.lose_lease()
        assert await store.reap(10) == 1
        assert (await driver.try_insert(exclusive_key="shelf")).created

    async def test_who_is_reaped_has_lost_its_lease(
        self, driver: Driver, store: OperationStore
    ) -> None:
        claim = await driver.start()
        await store.request_cancel(claim.operation.name)
        await driver.lose_lease()
        await store.reap(10)
        renewal = await store.renew([claim.lease], TIMEOUT)
        assert renewal.lost == {Lease(claim.operation.name, 1)}
