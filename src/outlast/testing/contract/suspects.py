"""What `claim` promises about operations that may have killed their process."""

from datetime import timedelta

from outlast.domain.operation import Claim, State
from outlast.domain.transitions import ATTEMPTS_EXHAUSTED, Succeeded
from outlast.ports import OperationStore
from outlast.testing.clock import ManualClock
from outlast.testing.contract.driver import (
    LEASE,
    METHOD,
    OTHER_METHOD,
    PAUSES,
    RESPONSE,
    ContractFixtures,
    Driver,
)


async def _lost_together(driver: Driver, times: int, count: int = 3) -> list[str]:
    """Return the names of operations whose process died so often."""
    names = [(await driver.insert()).name for _ in range(count)]
    for _ in range(times):
        assert len(await driver.claim(limit=count)) == count
        await driver.lose_lease()
    return names


async def _claimed(store: OperationStore, suspects: int, limit: int = 10) -> list[str]:
    slots = {METHOD: limit, OTHER_METHOD: limit}
    claims = await store.claim("worker-9", slots, limit, LEASE, suspects=suspects)
    return [claim.operation.name for claim in claims.claims]


class SuspectContract(ContractFixtures):
    """What was lost with its worker again and again is run one at a time."""

    async def test_what_lost_its_lease_once_is_given_like_any_other(
        self, driver: Driver, store: OperationStore
    ) -> None:
        names = await _lost_together(driver, 1)
        assert await _claimed(store, 0) == names

    async def test_no_more_suspects_are_given_than_asked_for(
        self, driver: Driver, store: OperationStore
    ) -> None:
        names = await _lost_together(driver, 2, count=4)
        assert await _claimed(store, 0) == []
        assert await _claimed(store, 1) == names[:1]
        assert await _claimed(store, 2) == names[1:3]
        assert await _claimed(store, 5) == names[3:]

    async def test_suspects_hold_up_nothing_that_is_behind_them(
        self, driver: Driver, store: OperationStore
    ) -> None:
        suspects = await _lost_together(driver, 2)
        others = [(await driver.insert(method=it)).name for it in (METHOD, OTHER_METHOD, METHOD)]
        assert await _claimed(store, 0, limit=2) == others[:2]
        assert await _claimed(store, 1, limit=2) == [suspects[0], others[2]]

    async def test_suspects_count_towards_the_other_limits(
        self, driver: Driver, store: OperationStore
    ) -> None:
        suspects = await _lost_together(driver, 2)
        await driver.insert()
        assert await _claimed(store, 2, limit=1) == suspects[:1]
        claims = await store.claim("worker-9", {METHOD: 1}, 5, LEASE, suspects=5)
        assert [claim.operation.name for claim in claims.claims] == [suspects[1]]

    async def test_a_suspect_that_was_given_back_still_is_one(
        self, driver: Driver, store: OperationStore
    ) -> None:
        claim = await self._on_trial(driver)
        await store.finish(claim.lease, PAUSES["released"])
        assert await _claimed(store, 0) == []
        assert await _claimed(store, 1) == [claim.operation.name]

    async def test_a_suspect_whose_handler_failed_is_none_any_more(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        claim = await self._on_trial(driver)
        await store.finish(claim.lease, PAUSES["retry"])
        await clock.advance(5)
        assert await _claimed(store, 0) == [claim.operation.name]
        assert (await store.get(claim.operation.name)).interruptions == 0

    async def test_a_suspect_that_is_to_be_cancelled_is_cancelled_all_the_same(
        self, driver: Driver, store: OperationStore
    ) -> None:
        (name, *_) = await _lost_together(driver, 2)
        await store.request_cancel(name)
        assert await _claimed(store, 0) == []
        assert await driver.states(name) == [State.CANCELLED]

    async def test_one_that_dies_on_every_trial_ends_as_a_dead_letter_and_its_neighbours_go_on(
        self, driver: Driver, store: OperationStore
    ) -> None:
        names = await _lost_together(driver, 2)
        poison = names[1]
        deaths = 0
        while not (await store.get(poison)).done:
            claims = (await store.claim("worker-9", {METHOD: 5}, 5, LEASE)).claims
            for claim in claims:
                if claim.operation.name == poison:
                    deaths += 1
                    await driver.lose_lease()
                else:
                    await store.finish(claim.lease, Succeeded(RESPONSE))
        ended = await store.get(poison)
        assert (ended.error, ended.dead_letter, ended.attempt) == (ATTEMPTS_EXHAUSTED, True, 3)
        assert deaths == 3
        neighbours = [await store.get(name) for name in names if name != poison]
        assert [(it.state, it.attempt) for it in neighbours] == [(State.SUCCEEDED, 1)] * 2

    async def test_the_next_ready_time_leaves_out_suspects_that_may_not_be_given(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        await _lost_together(driver, 2)
        none = await store.claim("worker-9", {METHOD: 5}, 5, LEASE, suspects=0)
        assert none.next_ready_time is None
        due = clock.now() + timedelta(seconds=7)
        await driver.insert(ready_time=due)
        one = await store.claim("worker-9", {METHOD: 5}, 5, LEASE, suspects=1)
        assert len(one.claims) == 1
        assert one.next_ready_time == due

    async def test_the_next_ready_time_counts_suspects_that_may_be_given(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        await _lost_together(driver, 2, count=2)
        await driver.insert(ready_time=clock.now() + timedelta(seconds=7))
        claims = await store.claim("worker-9", {METHOD: 1}, 5, LEASE, suspects=2)
        assert len(claims.claims) == 1
        assert claims.next_ready_time is not None
        assert claims.next_ready_time <= clock.now()

    @staticmethod
    async def _on_trial(driver: Driver) -> Claim:
        await _lost_together(driver, 2, count=1)
        return await driver.claim_one("worker-3")
