"""What `claim` promises about methods of which only so many may run."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta

import pytest

from outlast.domain.operation import Claim, State
from outlast.domain.transitions import Outcome, Released, Retry, Succeeded
from outlast.ports import Claims, OperationStore, Renewal
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

_SLOTS = {METHOD: 10, OTHER_METHOD: 10}
_MANY = 30


async def _claim(
    store: OperationStore, limits: Mapping[str, int], *, suspects: int = 5, limit: int = 10
) -> Claims:
    return await store.claim(
        "worker-1", _SLOTS, limit, LEASE, suspects=suspects, max_running=limits
    )


async def _insert(driver: Driver, count: int, method: str = METHOD) -> list[str]:
    return [(await driver.insert(method=method)).name for _ in range(count)]


def _names(claims: Sequence[Claim]) -> list[str]:
    return [claim.operation.name for claim in claims]


class MaxRunningContract(ContractFixtures):
    """No more of a method run than may, whoever claims them."""

    async def test_no_more_run_than_may_and_nothing_else_is_held_up(
        self, driver: Driver, store: OperationStore, other: OperationStore
    ) -> None:
        first = await _insert(driver, 5)
        others = await _insert(driver, 3, OTHER_METHOD)
        claims = await _claim(store, {METHOD: 2})
        assert _names(claims.claims) == [*first[:2], *others]
        assert claims.held_back == {METHOD}
        assert not (await _claim(other, {METHOD: 2})).claims
        claims = await _claim(other, {METHOD: 3})
        assert _names(claims.claims) == first[2:3]

    async def test_no_more_are_given_than_there_are_slots_for_either(
        self, driver: Driver, store: OperationStore
    ) -> None:
        await _insert(driver, 9)
        claims = await _claim(store, {METHOD: 4}, limit=3)
        assert len(claims.claims) == 3
        assert claims.held_back == frozenset()
        assert (await _claim(store, {METHOD: 4}, limit=3)).held_back == {METHOD}

    async def test_a_method_without_a_limit_is_never_held_back(
        self, driver: Driver, store: OperationStore
    ) -> None:
        await _insert(driver, 3)
        assert (await driver.store.claim("worker-1", _SLOTS, 10, LEASE)).held_back == frozenset()
        claims = await _claim(store, {OTHER_METHOD: 1, "example.v1.Books/Burn": 1})
        assert claims.held_back == frozenset()

    async def test_a_limit_of_each_method_is_its_own(
        self, driver: Driver, store: OperationStore
    ) -> None:
        await _insert(driver, 4)
        await _insert(driver, 4, OTHER_METHOD)
        claims = await _claim(store, {METHOD: 1, OTHER_METHOD: 3})
        methods = [claim.operation.method for claim in claims.claims]
        assert (methods.count(METHOD), methods.count(OTHER_METHOD)) == (1, 3)
        assert claims.held_back == {METHOD, OTHER_METHOD}

    @pytest.mark.parametrize("outcome", cases({**PAUSES, **ENDINGS}))
    async def test_whatever_ends_an_attempt_leaves_its_place_to_the_next(
        self, driver: Driver, store: OperationStore, other: OperationStore, outcome: Outcome
    ) -> None:
        running = await driver.start()
        waiting = await _insert(driver, 2)
        assert (await _claim(other, {METHOD: 1})).held_back == {METHOD}
        await store.finish(running.lease, outcome)
        claims = await _claim(other, {METHOD: 1})
        given = [running.operation.name] if outcome == Released() else waiting[:1]
        assert _names(claims.claims) == given

    async def test_deleting_what_runs_frees_no_place_before_it_ends(
        self, driver: Driver, store: OperationStore
    ) -> None:
        running = await driver.start()
        await _insert(driver, 1)
        await store.delete(running.operation.name)
        assert not (await _claim(store, {METHOD: 1})).claims
        await store.finish(running.lease, Succeeded(RESPONSE))
        assert len((await _claim(store, {METHOD: 1})).claims) == 1

    async def test_what_lost_its_lease_keeps_its_place_and_is_taken_over(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        running = await driver.start()
        waiting = await driver.insert(ready_time=clock.now() + timedelta(seconds=1))
        await driver.lose_lease()
        claims = await _claim(store, {METHOD: 1})
        assert _names(claims.claims) == [running.operation.name]
        assert claims.held_back == {METHOD}
        assert (await store.get(waiting.name)).state is State.PENDING

    async def test_a_renewal_after_the_lease_ran_out_exceeds_no_limit(
        self, driver: Driver, store: OperationStore
    ) -> None:
        running = await driver.start(interruptions=2)
        await _insert(driver, 1)
        await driver.lose_lease()
        claims = await _claim(store, {METHOD: 1}, suspects=0)
        assert not claims.claims
        assert await store.renew([running.lease], LEASE) == Renewal()

    async def test_what_lost_its_lease_is_behind_no_backlog_that_is_held_back(
        self, driver: Driver, store: OperationStore
    ) -> None:
        waiting = await _insert(driver, _MANY)
        running = (await _claim(store, {METHOD: 2})).claims
        await driver.lose_lease()
        claims = await _claim(store, {METHOD: 2}, limit=1)
        assert claims.next_ready_time is not None
        again = await _claim(store, {METHOD: 2}, limit=1)
        assert sorted(_names([*claims.claims, *again.claims])) == sorted(_names(running))
        assert await driver.states(*waiting[2:]) == [State.PENDING] * (_MANY - 2)

    async def test_suspects_that_wait_need_a_place_too(
        self, driver: Driver, store: OperationStore
    ) -> None:
        running = await driver.start()
        suspect = await driver.insert(interruptions=2)
        assert not (await _claim(store, {METHOD: 1})).claims
        await store.finish(running.lease, Succeeded(RESPONSE))
        claims = await _claim(store, {METHOD: 1})
        assert _names(claims.claims) == [suspect.name]

    async def test_a_suspect_that_lost_its_lease_is_behind_none_that_wait(
        self, driver: Driver, store: OperationStore
    ) -> None:
        await driver.start(interruptions=2)
        for _ in range(3):
            await driver.insert(interruptions=2)
        await driver.lose_lease()
        claims = await _claim(store, {METHOD: 1}, suspects=1)
        assert [claim.operation.interruptions for claim in claims.claims] == [3]

    async def test_what_is_ended_instead_takes_no_place(
        self, driver: Driver, store: OperationStore
    ) -> None:
        lost = await driver.start(max_attempts=1)
        waiting = await _insert(driver, 1)
        await driver.lose_lease()
        given = _names((await _claim(store, {METHOD: 1})).claims)
        given += _names((await _claim(store, {METHOD: 1})).claims)
        assert await driver.states(lost.operation.name) == [State.FAILED]
        assert given == waiting

    async def test_a_limit_that_was_lowered_ends_nothing_and_lets_nothing_begin(
        self, driver: Driver, store: OperationStore
    ) -> None:
        await _insert(driver, 6)
        running = list((await _claim(store, {METHOD: 4})).claims)
        while running:
            assert (await _claim(store, {METHOD: 1})).claims == []
            await store.finish(running.pop().lease, Succeeded(RESPONSE))
        claims = await _claim(store, {METHOD: 1})
        assert len(claims.claims) == 1
        assert claims.held_back == {METHOD}

    async def test_what_is_held_back_is_no_reason_to_ask_again(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        running = await driver.start()
        await driver.insert()
        await driver.insert(ready_time=clock.now() + timedelta(seconds=1))
        claims = await _claim(store, {METHOD: 1})
        assert claims.next_ready_time == clock.now() + LEASE
        due = clock.now() + timedelta(seconds=3)
        await driver.insert(method=OTHER_METHOD, ready_time=due)
        assert (await _claim(store, {METHOD: 1})).next_ready_time == due
        await store.finish(running.lease, Retry(ERROR, LEASE))
        assert len((await _claim(store, {METHOD: 1})).claims) == 1

    async def test_what_may_run_and_was_not_given_is_a_reason_to_ask_again(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        await _insert(driver, 3)
        claims = await _claim(store, {METHOD: 2}, limit=1)
        assert claims.next_ready_time is not None
        assert claims.next_ready_time <= clock.now()
        assert claims.held_back == frozenset()

    async def test_concurrent_claims_exceed_no_limit_and_starve_nothing(
        self, driver: Driver, store: OperationStore, other: OperationStore
    ) -> None:
        names = set(await _insert(driver, _MANY)) | set(await _insert(driver, 5, OTHER_METHOD))
        running: set[str] = set()
        peak = 0

        async def work(store: OperationStore) -> None:
            nonlocal peak
            while names:
                claims = await _claim(store, {METHOD: 3}, limit=2)
                for claim in claims.claims:
                    if claim.operation.method == METHOD:
                        running.add(claim.operation.name)
                        peak = max(peak, len(running))
                await asyncio.sleep(0)
                for claim in claims.claims:
                    running.discard(claim.operation.name)
                    await store.finish(claim.lease, Succeeded(RESPONSE))
                    names.remove(claim.operation.name)
                await asyncio.sleep(0)

        async with asyncio.timeout(30):
            await asyncio.gather(*(work(it) for it in [store, other] * 3))
        assert 1 < peak <= 3
