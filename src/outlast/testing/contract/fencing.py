"""What keeps a worker from writing to what is no longer its own."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from outlast.domain.errors import LeaseLostError
from outlast.domain.operation import Lease, Progress
from outlast.domain.transitions import Cancelled, Failed, Released, Retry, Succeeded
from outlast.ports import OperationStore, Renewal
from outlast.testing.contract.driver import (
    ERROR,
    LEASE,
    PAUSES,
    RESPONSE,
    ContractFixtures,
    Driver,
)

Losing = Callable[[Driver], Awaitable[Lease]]
Writing = Callable[[OperationStore, Lease], Awaitable[object]]


async def _taken_over(driver: Driver) -> Lease:
    claim = await driver.start()
    await driver.lose_lease()
    await driver.claim_one("worker-2")
    return claim.lease


async def _taken_over_by_the_same_worker(driver: Driver) -> Lease:
    claim = await driver.start()
    await driver.lose_lease()
    await driver.claim_one(claim.operation.worker)
    return claim.lease


async def _succeeded(driver: Driver) -> Lease:
    claim = await driver.start()
    await driver.store.finish(claim.lease, Succeeded(RESPONSE))
    return claim.lease


async def _waits_for_a_retry(driver: Driver) -> Lease:
    claim = await driver.start()
    await driver.store.finish(claim.lease, PAUSES["retry"])
    return claim.lease


async def _released_and_taken_again(driver: Driver) -> Lease:
    claim = await driver.start()
    await driver.store.finish(claim.lease, Released())
    await driver.claim_one("worker-2")
    return claim.lease


async def _ended_by_a_claim(driver: Driver) -> Lease:
    claim = await driver.start(max_attempts=1)
    await driver.lose_lease()
    assert await driver.claim("worker-2") == []
    return claim.lease


async def _never_claimed(driver: Driver) -> Lease:
    return Lease((await driver.insert()).name, 0)


async def _not_claimed_yet(driver: Driver) -> Lease:
    claim = await driver.start()
    return Lease(claim.operation.name, claim.lease.epoch + 1)


async def _never_was(driver: Driver) -> Lease:
    return Lease(driver.new().name, 1)


async def _forgotten_when_done(driver: Driver) -> Lease:
    claim = await driver.start()
    await driver.store.delete(claim.operation.name)
    await driver.store.finish(claim.lease, Succeeded(RESPONSE))
    return claim.lease


async def _expired(driver: Driver) -> Lease:
    claim = await driver.start(retention=timedelta(minutes=1))
    await driver.store.finish(claim.lease, Succeeded(RESPONSE))
    await driver.clock.advance(60)
    await driver.store.expire(10)
    return claim.lease


async def _report(store: OperationStore, lease: Lease) -> object:
    return await store.record_progress(lease, Progress(1, 1), RESPONSE)


async def _record_step(store: OperationStore, lease: Lease) -> None:
    await store.record_step(lease, "zombie", RESPONSE)


async def _succeed(store: OperationStore, lease: Lease) -> object:
    return await store.finish(lease, Succeeded(RESPONSE))


async def _fail(store: OperationStore, lease: Lease) -> object:
    return await store.finish(lease, Failed(ERROR))


async def _stop(store: OperationStore, lease: Lease) -> object:
    return await store.finish(lease, Cancelled())


async def _retry(store: OperationStore, lease: Lease) -> object:
    return await store.finish(lease, Retry(ERROR, timedelta()))


async def _release(store: OperationStore, lease: Lease) -> object:
    return await store.finish(lease, Released())


LOSSES: tuple[Losing, ...] = (
    _taken_over,
    _taken_over_by_the_same_worker,
    _succeeded,
    _waits_for_a_retry,
    _released_and_taken_again,
    _ended_by_a_claim,
    _never_claimed,
    _not_claimed_yet,
    _never_was,
    _forgotten_when_done,
    _expired,
)
WRITES: tuple[Writing, ...] = (_report, _record_step, _succeed, _fail, _stop, _retry, _release)


def _named(function: Losing | Writing) -> str:
    return function.__name__.strip("_")


class FencingContract(ContractFixtures):
    """A write under a lease that is lost changes nothing and says so."""

    @pytest.mark.parametrize("write", WRITES, ids=_named)
    @pytest.mark.parametrize("lose", LOSSES, ids=_named)
    async def test_a_write_under_a_lost_lease_is_refused(
        self, driver: Driver, store: OperationStore, lose: Losing, write: Writing
    ) -> None:
        lease = await lose(driver)
        before = await store.get_many([lease.name])
        steps = await store.steps(lease.name)
        stats = await store.stats()
        with pytest.raises(LeaseLostError) as caught:
            await write(store, lease)
        assert (caught.value.name, caught.value.epoch) == (lease.name, lease.epoch)
        assert await store.get_many([lease.name]) == before
        assert await store.steps(lease.name) == steps
        assert await store.stats() == stats

    @pytest.mark.parametrize("lose", LOSSES, ids=_named)
    async def test_a_lost_lease_is_not_renewed(
        self, driver: Driver, store: OperationStore, lose: Losing
    ) -> None:
        lease = await lose(driver)
        before = await store.get_many([lease.name])
        assert await store.renew([lease], LEASE) == Renewal(lost=frozenset({lease}))
        assert await store.get_many([lease.name]) == before

    @pytest.mark.parametrize("write", WRITES, ids=_named)
    async def test_a_lease_that_ran_out_still_writes_if_nobody_took_over(
        self, driver: Driver, store: OperationStore, write: Writing
    ) -> None:
        claim = await driver.start()
        await driver.lose_lease()
        await write(store, claim.lease)

    async def test_the_new_owner_writes_after_the_old_one_was_refused(
        self, driver: Driver, store: OperationStore
    ) -> None:
        old = await driver.start()
        await driver.lose_lease()
        new = await driver.claim_one("worker-2")
        with pytest.raises(LeaseLostError):
            await store.finish(old.lease, Failed(ERROR))
        ended = await store.finish(new.lease, Succeeded(RESPONSE))
        assert ended.response == RESPONSE
        with pytest.raises(LeaseLostError):
            await store.finish(old.lease, Failed(ERROR))
        assert await store.get(ended.name) == ended
