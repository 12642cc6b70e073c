"""What `claim` promises."""

import asyncio
from datetime import timedelta

import pytest

from outlast.domain import transitions
from outlast.domain.errors import OperationNotFoundError
from outlast.domain.operation import State
from outlast.domain.status import Payload
from outlast.domain.transitions import Retry, Succeeded
from outlast.ports import OperationStore
from outlast.testing.clock import ManualClock
from outlast.testing.contract.driver import (
    ERROR,
    LEASE,
    METHOD,
    OTHER_METHOD,
    PAUSES,
    RESPONSE,
    ContractFixtures,
    Driver,
)


class ClaimContract(ContractFixtures):
    """A worker is given what is ready, the longest ready first, and nobody else is."""

    async def test_a_claim_gives_the_record_and_its_request(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        operation = driver.new(timeout=timedelta(minutes=5))
        request = Payload("example.v1.Request", bytes(range(256)))
        await store.insert(operation, request)
        await clock.advance(1)
        claims = await store.claim("worker-1", {METHOD: 1}, 1, LEASE)
        (claim,) = claims.claims
        assert claim.operation == transitions.claim(operation, "worker-1", clock.now(), LEASE)
        assert claim.request == request
        assert await store.get(operation.name) == claim.operation

    async def test_nothing_is_given_when_nothing_is_there(self, store: OperationStore) -> None:
        claims = await store.claim("worker-1", {METHOD: 1}, 1, LEASE)
        assert not claims.claims
        assert claims.next_ready_time is None

    @pytest.mark.parametrize("losses", [0, 2])
    async def test_a_lease_that_ran_out_only_by_a_jump_is_not_lost(
        self, driver: Driver, store: OperationStore, clock: ManualClock, losses: int
    ) -> None:
        running = await driver.insert()
        for _ in range(losses + 1):
            await driver.claim_one()
            await driver.lose_lease()
        waiting = await driver.insert(ready_time=clock.now() + timedelta(seconds=7))
        jump = timedelta(seconds=8)
        early = await store.claim("worker-2", {METHOD: 5}, 5, LEASE, distrust=jump)
        assert not early.claims
        assert early.next_ready_time == waiting.ready_time
        await clock.advance(7)
        later = await store.claim("worker-2", {METHOD: 5}, 5, LEASE, distrust=jump)
        assert [claim.operation.name for claim in later.claims] == [waiting.name]
        assert later.next_ready_time == clock.now() + LEASE
        await clock.advance(1)
        taken = await store.claim("worker-2", {METHOD: 5}, 5, LEASE, distrust=jump)
        assert [claim.operation.name for claim in taken.claims] == [running.name]

    async def test_a_jump_while_a_claim_waits_for_its_turn_makes_no_lease_seem_lost(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        await driver.start()
        claiming = asyncio.create_task(store.claim("worker-2", {METHOD: 5}, 5, LEASE))
        reaping = asyncio.create_task(store.reap(5))
        await asyncio.sleep(0)  # both have been called
        clock.jump(3600)
        assert not (await claiming).claims
        assert await reaping == 0

    async def test_the_longest_ready_is_given_first_of_whatever_method(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        now = clock.now()
        names = {}
        for delay, method in ((3, METHOD), (1, OTHER_METHOD), (2, METHOD), (0, METHOD)):
            ready_time = now + timedelta(seconds=delay)
            names[delay] = (await driver.insert(ready_time=ready_time, method=method)).name
        await clock.advance(10)
        given = [
            claim.operation.name
            for _ in names
            for claim in await driver.claim(methods=(METHOD, OTHER_METHOD), limit=1)
        ]
        assert given == [names[0], names[1], names[2], names[3]]

    async def test_a_lost_lease_takes_its_turn_by_when_it_ran_out(
        self, driver: Driver, clock: ManualClock
    ) -> None:
        lost = await driver.start()
        later = await driver.insert(ready_time=clock.now() + LEASE + timedelta(seconds=1))
        earlier = await driver.insert(ready_time=clock.now() + LEASE - timedelta(seconds=1))
        await clock.advance(LEASE.total_seconds() + 1)
        given = [(await driver.claim(limit=1))[0].operation.name for _ in range(3)]
        assert given == [earlier.name, lost.operation.name, later.name]

    async def test_no_more_are_given_than_the_limit(self, driver: Driver) -> None:
        for _ in range(5):
            await driver.insert()
        assert len(await driver.claim(limit=2)) == 2
        assert len(await driver.claim(limit=0)) == 0
        assert len(await driver.claim(limit=10)) == 3

    async def test_no_more_are_given_than_a_method_has_slots(
        self, driver: Driver, store: OperationStore
    ) -> None:
        for _ in range(3):
            await driver.insert(method=METHOD)
            await driver.insert(method=OTHER_METHOD)
        claims = await store.claim("worker-1", {METHOD: 1, OTHER_METHOD: 2}, 10, LEASE)
        methods = sorted(claim.operation.method for claim in claims.claims)
        assert methods == sorted([METHOD, OTHER_METHOD, OTHER_METHOD])

    async def test_a_method_without_slots_is_not_given(
        self, driver: Driver, store: OperationStore
    ) -> None:
        await driver.insert(method=METHOD)
        other = await driver.insert(method=OTHER_METHOD)
        claims = await store.claim("worker-1", {METHOD: 0, OTHER_METHOD: 1}, 5, LEASE)
        assert [claim.operation.name for claim in claims.claims] == [other.name]

    async def test_other_methods_are_never_given(
        self, driver: Driver, store: OperationStore
    ) -> None:
        await driver.insert(method=OTHER_METHOD)
        claims = await store.claim("worker-1", {METHOD: 5}, 5, LEASE)
        assert not claims.claims
        assert claims.next_ready_time is None
        assert not (await store.claim("worker-1", {}, 5, LEASE)).claims

    async def test_what_is_not_due_is_not_given(self, driver: Driver, clock: ManualClock) -> None:
        operation = await driver.insert(ready_time=clock.now() + timedelta(seconds=5))
        await clock.advance(4.999999)
        assert await driver.claim() == []
        await clock.advance(0.000001)
        assert (await driver.claim_one()).operation.name == operation.name

    async def test_a_retry_is_given_after_its_delay(
        self, driver: Driver, clock: ManualClock
    ) -> None:
        waiting = await driver.run(Retry(ERROR, timedelta(seconds=5)))
        await clock.advance(4.999999)
        assert await driver.claim() == []
        await clock.advance(0.000001)
        claim = await driver.claim_one("worker-2")
        assert claim.operation == transitions.claim(waiting, "worker-2", clock.now(), LEASE)
        assert claim.operation.attempt == 2

    async def test_a_released_operation_is_given_again_at_once(self, driver: Driver) -> None:
        await driver.run(PAUSES["released"])
        claim = await driver.claim_one("worker-2")
        assert claim.operation.attempt == 1
        assert claim.operation.lease_epoch == 2

    async def test_what_is_leased_is_not_given_until_the_lease_runs_out(
        self, driver: Driver, clock: ManualClock
    ) -> None:
        first = await driver.start()
        await clock.advance(LEASE.total_seconds() - 0.000001)
        assert await driver.claim("worker-2") == []
        await clock.advance(0.000001)
        second = await driver.claim_one("worker-2")
        assert second.operation == transitions.claim(
            first.operation, "worker-2", clock.now(), LEASE
        )
        assert second.lease.epoch == first.lease.epoch + 1
        assert second.request == first.request

    async def test_what_is_done_is_never_given(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        await driver.run(Succeeded(RESPONSE))
        await store.request_cancel((await driver.insert()).name)
        await clock.advance(60)
        assert await driver.claim() == []

    async def test_deleted_work_is_given(self, driver: Driver, store: OperationStore) -> None:
        operation = await driver.insert()
        await store.delete(operation.name)
        first = await driver.claim_one()
        assert first.operation.name == operation.name
        assert first.operation.deleted
        await driver.lose_lease()
        assert (await driver.claim_one("worker-2")).lease.epoch == first.lease.epoch + 1

    async def test_concurrent_claims_give_each_operation_once(
        self, driver: Driver, store: OperationStore, other: OperationStore
    ) -> None:
        names = {(await driver.insert()).name for _ in range(40)}
        stores = [store, other] * 10
        rounds = await asyncio.gather(
            *(
                it.claim(f"worker-{number}", {METHOD: 3}, 3, LEASE)
                for number, it in enumerate(stores)
            )
        )
        given = [claim.operation.name for it in rounds for claim in it.claims]
        assert len(given) == len(set(given))
        assert set(given) == names

    async def test_concurrent_claims_take_over_a_lost_lease_once(
        self, driver: Driver, store: OperationStore, other: OperationStore
    ) -> None:
        await driver.start()
        await driver.lose_lease()
        rounds = await asyncio.gather(
            *(it.claim(f"worker-{id(it)}", {METHOD: 1}, 1, LEASE) for it in [store, other] * 5)
        )
        assert sum(len(it.claims) for it in rounds) == 1


class NextReadyTimeContract(ContractFixtures):
    """A claim says when the next one is worth the trouble."""

    async def test_it_is_when_the_next_operation_is_due(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        for delay in (9, 7, 8):
            await driver.insert(ready_time=clock.now() + timedelta(seconds=delay))
        claims = await store.claim("worker-1", {METHOD: 1}, 1, LEASE)
        assert claims.next_ready_time == clock.now() + timedelta(seconds=7)

    async def test_it_is_when_the_next_lease_runs_out(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        await driver.insert()
        first = await store.claim("worker-1", {METHOD: 1}, 1, LEASE)
        assert first.next_ready_time == clock.now() + LEASE
        await clock.advance(10)
        await store.renew([first.claims[0].lease], LEASE)
        second = await store.claim("worker-2", {METHOD: 1}, 1, LEASE)
        assert second.next_ready_time == clock.now() + LEASE

    async def test_it_is_past_when_more_are_ready_than_were_given(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        for _ in range(2):
            await driver.insert()
        by_limit = await store.claim("worker-1", {METHOD: 5}, 1, LEASE)
        assert by_limit.next_ready_time is not None
        assert by_limit.next_ready_time <= clock.now()
        await driver.insert()
        by_slots = await store.claim("worker-1", {METHOD: 1}, 5, LEASE)
        assert by_slots.next_ready_time is not None
        assert by_slots.next_ready_time <= clock.now()

    async def test_other_methods_do_not_matter(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        await driver.insert(method=OTHER_METHOD, ready_time=clock.now() + timedelta(seconds=1))
        await driver.insert(ready_time=clock.now() + timedelta(seconds=2))
        claims = await store.claim("worker-1", {METHOD: 1}, 1, LEASE)
        assert claims.next_ready_time == clock.now() + timedelta(seconds=2)

    async def test_it_counts_hidden_work(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        operation = await driver.insert(ready_time=clock.now() + timedelta(seconds=1))
        await store.delete(operation.name)
        claims = await store.claim("worker-1", {METHOD: 1}, 1, LEASE)
        assert claims.next_ready_time == operation.ready_time


class ClaimEndsContract(ContractFixtures):
    """What must not run again is ended by the claim that meets it, and not given."""

    async def test_a_lost_last_attempt_ends_as_a_dead_letter(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        running = (await driver.start(max_attempts=1)).operation
        await driver.lose_lease()
        assert await driver.claim() == []
        ended = await store.get(running.name)
        assert ended == transitions.claim(running, "worker-1", clock.now(), LEASE)
        assert ended.dead_letter

    async def test_a_lost_operation_that_was_to_be_cancelled_ends_cancelled(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        claim = await driver.start()
        asked = await store.request_cancel(claim.operation.name)
        await driver.lose_lease()
        assert await driver.claim() == []
        ended = await store.get(asked.name)
        assert ended == transitions.claim(asked, "worker-1", clock.now(), LEASE)
        assert ended.state is State.CANCELLED

    async def test_a_lost_operation_past_its_deadline_ends_failed(
        self, driver: Driver, store: OperationStore
    ) -> None:
        claim = await driver.start(timeout=LEASE)
        await driver.lose_lease()
        assert await driver.claim() == []
        ended = await store.get(claim.operation.name)
        assert ended.state is State.FAILED
        assert ended.error == transitions.DEADLINE_EXCEEDED

    async def test_a_waiting_operation_past_its_deadline_ends_failed(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        waiting = await driver.run(PAUSES["retry"], timeout=timedelta(seconds=8))
        await clock.advance(8)
        assert await driver.claim() == []
        ended = await store.get(waiting.name)
        assert ended == transitions.claim(waiting, "worker-1", clock.now(), LEASE)
        assert ended.error == transitions.DEADLINE_EXCEEDED

    async def test_what_is_ended_keeps_nothing_else_from_being_given(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        for _ in range(3):
            await driver.start(max_attempts=1)
        await driver.lose_lease()
        operation = await driver.insert()
        while not (claims := await store.claim("worker-1", {METHOD: 1}, 1, LEASE)).claims:
            assert claims.next_ready_time is not None
            assert claims.next_ready_time <= clock.now()
        assert [claim.operation.name for claim in claims.claims] == [operation.name]

    async def test_a_deleted_operation_that_waits_and_is_ended_leaves_the_queue(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        waiting = await driver.run(PAUSES["retry"], timeout=timedelta(seconds=8))
        await store.delete(waiting.name)
        await clock.advance(8)
        assert await driver.claim() == []
        await driver.insert(max_pending=1)

    async def test_a_deleted_operation_that_is_ended_is_forgotten(
        self, driver: Driver, store: OperationStore
    ) -> None:
        claim = await driver.start(max_attempts=1, exclusive_key="k")
        await store.record_step(claim.lease, "step", RESPONSE)
        await store.delete(claim.operation.name)
        await driver.lose_lease()
        assert await driver.claim() == []
        assert await store.steps(claim.operation.name) == {}
        with pytest.raises(OperationNotFoundError):
            await store.get(claim.operation.name)
        await driver.insert(exclusive_key="k")
