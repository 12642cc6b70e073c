"""What `attempts` and `stats` promise."""

from datetime import timedelta

import pytest

from outlast.domain.errors import OperationNotFoundError
from outlast.domain.operation import Attempt, AttemptOutcome
from outlast.domain.transitions import (
    ATTEMPTS_EXHAUSTED,
    WORKER_LOST,
    Cancelled,
    Failed,
    Outcome,
    Succeeded,
)
from outlast.ports import OperationStore, QueueStats
from outlast.testing.clock import ManualClock
from outlast.testing.contract.driver import (
    ENDINGS,
    ERROR,
    LEASE,
    METHOD,
    OTHER_METHOD,
    PAUSES,
    RESPONSE,
    ContractFixtures,
    Driver,
    cases,
)


class AttemptsContract(ContractFixtures):
    """Every attempt is told of once, the oldest first."""

    async def test_an_operation_that_never_ran_has_none(
        self, driver: Driver, store: OperationStore
    ) -> None:
        name = (await driver.insert()).name
        assert await store.attempts(name) == []
        await store.request_cancel(name)
        assert await store.attempts(name) == []

    async def test_an_unknown_operation_is_not_found(self, store: OperationStore) -> None:
        with pytest.raises(OperationNotFoundError):
            await store.attempts("operations/none")

    async def test_an_attempt_that_runs_is_told_of(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        claim = await driver.start()
        started = clock.now()
        await clock.advance(1)
        await store.renew([claim.lease], LEASE)
        assert await store.attempts(claim.operation.name) == [
            Attempt(1, 1, "worker-1", started, None, AttemptOutcome.RUNNING)
        ]

    @pytest.mark.parametrize("outcome", cases(ENDINGS))
    async def test_the_attempt_that_ended_the_operation_is_told_of(
        self, driver: Driver, store: OperationStore, clock: ManualClock, outcome: Outcome
    ) -> None:
        claim = await driver.start()
        started = clock.now()
        await clock.advance(1)
        done = await store.finish(claim.lease, outcome)
        assert await store.attempts(done.name) == [
            Attempt(1, 1, "worker-1", started, clock.now(), AttemptOutcome(done.state), done.error)
        ]

    async def test_failed_and_lost_attempts_are_kept(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        claim = await driver.start(max_attempts=4)
        times = [clock.now()]
        await clock.advance(1)
        await store.finish(claim.lease, PAUSES["retry"])
        times.append(clock.now())
        await clock.advance(5)
        await driver.claim_one("worker-2")
        times.append(clock.now())
        await driver.lose_lease()
        third = await driver.claim_one("worker-3")
        times.append(clock.now())
        lost = AttemptOutcome.LOST
        past = [
            Attempt(1, 1, "worker-1", times[0], times[1], AttemptOutcome.FAILED, ERROR),
            Attempt(2, 2, "worker-2", times[2], times[3], lost, WORKER_LOST, counted=False),
        ]
        running = Attempt(2, 3, "worker-3", times[3], None, AttemptOutcome.RUNNING)
        assert await store.attempts(third.operation.name) == [*past, running]
        await store.record_progress(third.lease, None, RESPONSE)
        await clock.advance(1)
        await store.finish(third.lease, Succeeded(RESPONSE))
        ended = Attempt(2, 3, "worker-3", times[3], clock.now(), AttemptOutcome.SUCCEEDED)
        assert await store.attempts(third.operation.name) == [*past, ended]

    async def test_a_released_attempt_leaves_no_trace(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        name = (await driver.run(PAUSES["released"])).name
        assert await store.attempts(name) == []
        await clock.advance(1)
        await driver.claim_one("worker-2")
        assert await store.attempts(name) == [
            Attempt(1, 2, "worker-2", clock.now(), None, AttemptOutcome.RUNNING)
        ]

    async def test_a_released_operation_that_is_cancelled_never_ran(
        self, driver: Driver, store: OperationStore
    ) -> None:
        name = (await driver.run(PAUSES["released"])).name
        await store.request_cancel(name)
        assert await store.attempts(name) == []

    async def test_cancelling_between_attempts_adds_none(
        self, driver: Driver, store: OperationStore
    ) -> None:
        name = (await driver.run(PAUSES["retry"])).name
        before = await store.attempts(name)
        await store.request_cancel(name)
        assert await store.attempts(name) == before
        assert [it.outcome for it in before] == [AttemptOutcome.FAILED]

    async def test_every_lost_attempt_is_kept_whether_it_counts_or_not(
        self, driver: Driver, store: OperationStore
    ) -> None:
        name = (await driver.start(max_attempts=2)).operation.name
        for worker in ("worker-2", "worker-3", "worker-4"):
            await driver.lose_lease()
            await driver.claim_one(worker)
        await driver.lose_lease()
        assert await driver.claim("worker-5") == []
        attempts = await store.attempts(name)
        assert {(it.outcome, it.error) for it in attempts} == {(AttemptOutcome.LOST, WORKER_LOST)}
        assert [(it.number, it.epoch, it.worker, it.counted) for it in attempts] == [
            (1, 1, "worker-1", False),
            (1, 2, "worker-2", False),
            (1, 3, "worker-3", True),
            (2, 4, "worker-4", True),
        ]

    async def test_a_lost_last_attempt_is_told_of_once(
        self, driver: Driver, store: OperationStore
    ) -> None:
        name = (await driver.start(max_attempts=1)).operation.name
        await driver.lose_lease()
        await driver.claim("worker-2")
        (attempt,) = await store.attempts(name)
        assert attempt.outcome is AttemptOutcome.LOST
        assert attempt.error == WORKER_LOST
        assert (await store.get(name)).error == ATTEMPTS_EXHAUSTED


class StatsContract(ContractFixtures):
    """The figures of a method are of now."""

    async def test_an_empty_store_has_nothing_to_tell(self, driver: Driver) -> None:
        assert await _figures(driver) == []

    async def test_what_is_ready_delayed_running_and_dead_is_counted_by_method(
        self, driver: Driver, clock: ManualClock
    ) -> None:
        await driver.run(Failed(ERROR, dead_letter=True), method=OTHER_METHOD)
        await driver.run(Failed(ERROR))
        for _ in range(2):
            await driver.start()
        for _ in range(3):
            await driver.insert()
        for _ in range(4):
            await driver.insert(ready_time=clock.now() + timedelta(seconds=60))
        await clock.advance(5)
        await driver.insert(method=OTHER_METHOD)
        assert await _figures(driver) == [
            QueueStats(OTHER_METHOD, 1, 0, 0, 1, timedelta()),
            QueueStats(METHOD, 3, 4, 2, 0, timedelta(seconds=5)),
        ]

    async def test_the_age_is_that_of_the_longest_ready(
        self, driver: Driver, clock: ManualClock
    ) -> None:
        await driver.start()
        for _ in range(3):
            await driver.insert()
            await clock.advance(2)
        (figures,) = await _figures(driver)
        assert figures.oldest_ready_age == timedelta(seconds=6)

    async def test_a_lost_lease_makes_an_operation_ready(
        self, driver: Driver, clock: ManualClock
    ) -> None:
        await driver.start()
        await clock.advance(LEASE.total_seconds() + 2)
        assert await _figures(driver) == [
            QueueStats(METHOD, ready=1, oldest_ready_age=timedelta(seconds=2))
        ]

    async def test_hidden_work_counts_while_it_goes_on(
        self, driver: Driver, store: OperationStore
    ) -> None:
        claim = await driver.start()
        await store.delete(claim.operation.name)
        assert await _figures(driver) == [QueueStats(METHOD, running=1)]
        await store.finish(claim.lease, Failed(ERROR, dead_letter=True))
        assert await _figures(driver) == []

    async def test_expired_dead_letters_do_not_count(
        self, driver: Driver, clock: ManualClock
    ) -> None:
        await driver.run(Failed(ERROR, dead_letter=True), retention=timedelta(minutes=1))
        await driver.run(Cancelled())
        assert await _figures(driver) == [QueueStats(METHOD, dead_letters=1)]
        await clock.advance(60)
        assert await _figures(driver) == []


async def _figures(driver: Driver) -> list[QueueStats]:
    """Return the figures of those methods that have something to tell."""
    stats = await driver.store.stats()
    assert [it.method for it in stats] == sorted({it.method for it in stats})
    return [it for it in stats if it != QueueStats(it.method)]
