"""What the PostgreSQL store does for many callers at once, also behind the back of another."""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from outlast.domain.errors import (
    ExclusiveConflictError,
    LeaseLostError,
    OperationNotFoundError,
    QueueFullError,
    StoreUnavailableError,
)
from outlast.domain.operation import Claim, Lease, Operation, State
from outlast.domain.status import Payload
from outlast.domain.transitions import Retry, Succeeded
from outlast.engine.clock import SystemClock
from outlast.ports import Renewal
from outlast.stores.postgres import PostgresStore
from outlast.stores.postgres import connection as connection_module
from outlast.stores.postgres.batching import MAX_BATCH_BYTES, take_batch
from outlast.stores.postgres.commands import RecordStep
from outlast.stores.postgres.connection import STATEMENT_TIMEOUT
from outlast.testing.clock import ManualClock
from outlast.testing.contract.driver import ERROR, LEASE, RESPONSE, Driver
from tests.postgresql import PostgresServer

TIMER = SystemClock()
DONE = Succeeded(RESPONSE)


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    """Return the URL of an empty database."""
    url = postgres.new_database()
    yield url
    postgres.drop(url)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def here(url: str, clock: ManualClock) -> AsyncIterator[Driver]:
    async with PostgresStore.open(url, timer=TIMER, clock=clock) as store:
        yield Driver(store, clock)


@pytest.fixture
async def there(url: str, here: Driver) -> AsyncIterator[Driver]:
    async with PostgresStore.open(url, timer=TIMER, clock=here.clock) as store:
        yield Driver(store, here.clock)


def rows(url: str) -> int:
    """Return how many operations are kept, hidden ones as well."""
    with psycopg.connect(url) as connection:
        ((count,),) = connection.execute("SELECT count(*) FROM outlast.operations").fetchall()
    return int(count)


async def tried(*calls: Any) -> list[Any]:
    """Make calls at the same time; return what each returned or raised."""
    return await asyncio.gather(*calls, return_exceptions=True)


# Ends of what another process has changed since it was claimed here.


async def test_the_end_of_what_was_cancelled_elsewhere_keeps_that(here, there):
    claim = await here.start()
    asked = await there.store.request_cancel(claim.operation.name)
    done = await here.store.finish(claim.lease, DONE)
    assert done.state is State.SUCCEEDED
    assert done.cancel_requested_time == asked.cancel_requested_time
    assert await there.store.get(done.name) == done
    assert done.revision == asked.revision + 1


async def test_what_was_cancelled_elsewhere_is_not_tried_again(here, there):
    claim = await here.start()
    await there.store.request_cancel(claim.operation.name)
    ended = await here.store.finish(claim.lease, Retry(ERROR, timedelta(seconds=1)))
    assert ended.state is State.CANCELLED


async def test_the_end_of_what_was_deleted_elsewhere_leaves_nothing(here, there, url):
    claim = await here.start()
    await there.store.delete(claim.operation.name)
    assert rows(url) == 1
    assert (await here.store.finish(claim.lease, DONE)).done
    with pytest.raises(OperationNotFoundError):
        await here.store.get(claim.operation.name)
    assert rows(url) == 0


@pytest.mark.parametrize("ended", [False, True])
async def test_the_end_of_what_was_taken_over_elsewhere_is_refused(here, there, ended):
    claim = await here.start()
    await here.lose_lease()
    other = await there.claim_one("worker-2")
    if ended:
        await there.store.finish(other.lease, DONE)
    before = await there.store.get(claim.operation.name)
    with pytest.raises(LeaseLostError):
        await here.store.finish(claim.lease, Succeeded(Payload("late", b"late")))
    assert await there.store.get(claim.operation.name) == before


async def test_an_end_keeps_progress_and_renewals_of_its_own_process(here, there):
    claim = await here.start()
    await here.store.renew([claim.lease], LEASE * 3)
    await here.store.record_progress(claim.lease, None, Payload("m", b"new"))
    await here.store.renew([claim.lease], LEASE * 5)
    done = await here.store.finish(claim.lease, DONE)
    assert done.metadata == Payload("m", b"new")
    assert await there.store.get(done.name) == done


async def test_of_many_ends_at_once_each_is_as_it_is_by_itself(here, there):
    for _ in range(60):
        await here.insert()
    claims = await here.claim()
    cancelled = {it.operation.name for it in claims[::3]}
    deleted = {it.operation.name for it in claims[1::6]}
    await tried(*map(there.store.request_cancel, cancelled), *map(there.store.delete, deleted))
    ended = await asyncio.gather(*(here.store.finish(it.lease, DONE) for it in claims))
    for operation in ended:
        assert operation.state is State.SUCCEEDED
        assert (operation.cancel_requested_time is not None) == (operation.name in cancelled)
    visible = await there.store.get_many([it.operation.name for it in claims])
    assert visible == {it.name: it for it in ended if it.name not in deleted}


async def test_only_one_of_two_ends_at_once_counts(here):
    claim = await here.start()
    outcomes = [Succeeded(Payload("a", b"a")), Succeeded(Payload("b", b"b"))]
    ended = await tried(*(here.store.finish(claim.lease, it) for it in outcomes))
    (done,) = [it for it in ended if isinstance(it, Operation)]
    assert sum(isinstance(it, LeaseLostError) for it in ended) == 1
    assert await here.store.get(claim.operation.name) == done


# Inserts.


async def test_of_many_inserts_at_once_each_is_as_it_is_by_itself(here, there, url):
    known = await here.insert(request_id="known", exclusive_key="taken")
    twice = here.new()
    results = await tried(
        here.try_insert(request_id="known"),
        here.try_insert(exclusive_key="taken"),
        *(there.try_insert(name=f"operations/there-{n}", request_id="new") for n in range(3)),
        *(here.try_insert(request_id="new") for _ in range(3)),
        *(here.try_insert(exclusive_key="free") for _ in range(3)),
        here.try_insert(twice),
        here.try_insert(twice),
        *(here.try_insert() for _ in range(20)),
    )
    again, conflict, *same = results[:8]
    assert (again.operation, again.created) == (known, False)
    assert isinstance(conflict, ExclusiveConflictError)
    assert len({it.operation.name for it in same}) == 1
    assert sum(it.created for it in same) == 1
    exclusive, doubled, others = results[8:11], results[11:13], results[13:]
    assert sum(isinstance(it, ExclusiveConflictError) for it in exclusive) == 2
    assert all(it.operation == twice for it in doubled)
    assert all(it.created for it in others)
    assert rows(url) == 1 + 1 + 1 + 1 + 20


async def test_as_many_of_many_inserts_at_once_are_kept_as_may_wait(here, url):
    results = await tried(*(here.try_insert(max_pending=10) for _ in range(25)))
    assert sum(isinstance(it, QueueFullError) for it in results) == 15
    assert rows(url) == 10
    assert (await here.try_insert()).created  # without a limit


async def test_one_record_that_cannot_be_kept_takes_no_others_down(here, url):
    bad = Payload("type\0", b"")
    results = await tried(
        *(here.try_insert() for _ in range(5)),
        here.try_insert(metadata=bad),
        *(here.try_insert() for _ in range(5)),
    )
    assert isinstance(results.pop(5), StoreUnavailableError)
    assert all(it.created for it in results)
    assert rows(url) == 10


async def test_one_end_that_cannot_be_kept_takes_no_others_down(here):
    for _ in range(5):
        await here.insert()
    claims = await here.claim()
    bad = Succeeded(Payload("type\0", b""))
    outcomes = [DONE, DONE, bad, DONE, DONE]
    results = await tried(
        *(here.store.finish(it.lease, how) for it, how in zip(claims, outcomes, strict=True))
    )
    assert isinstance(results.pop(2), StoreUnavailableError)
    assert all(it.done for it in results)
    assert (await here.store.finish(claims[2].lease, DONE)).done


async def test_an_insert_that_is_given_up_before_its_turn_is_not_made(here, url):
    first = [asyncio.create_task(here.try_insert()) for _ in range(3)]
    given_up = asyncio.create_task(here.try_insert())
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(*first)
    await tried(given_up)
    assert rows(url) == 3


async def test_many_bytes_are_divided_and_all_are_kept(here, url):
    big = Payload("m", bytes(3 * MAX_BATCH_BYTES // 4))
    results = await asyncio.gather(*(here.try_insert(metadata=big) for _ in range(4)))
    assert all(it.created for it in results)
    assert rows(url) == 4


@pytest.mark.parametrize(
    ("sizes", "taken"),
    [([1, 2, 3], 3), ([MAX_BATCH_BYTES, 1], 1), ([2 * MAX_BATCH_BYTES, 1], 1), ([0] * 999, 256)],
    ids=["few", "full", "too much for any", "many"],
)
def test_a_batch_has_as_many_as_fit_and_at_least_one(sizes, taken):
    waiting = deque(RecordStep(Lease("x", 1), "k", Payload("t", bytes(it))) for it in sizes)
    assert len(take_batch(waiting)) == taken
    assert len(waiting) == len(sizes) - taken


async def test_a_step_key_that_no_index_takes_does_not_take_others_down(here):
    claim = await here.start()
    chance = random.Random(1)
    long = "".join(chr(chance.randrange(0x4E00, 0x9FFF)) for _ in range(2000))
    keys = ["a", long, "b"]
    results = await tried(
        *(here.store.record_step(claim.lease, key, Payload("s", b"")) for key in keys)
    )
    assert isinstance(results[1], StoreUnavailableError)
    assert set(await here.store.steps(claim.operation.name)) == {"a", "b"}


# Records that somebody else has locked.


@pytest.fixture
async def locked(url: str, here: Driver) -> AsyncIterator[tuple[Claim, psycopg.AsyncConnection]]:
    """Yield a claim whose record is locked, and the connection whose transaction keeps it so."""
    claim = await here.start()
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute(
            "SELECT FROM outlast.operations WHERE name = %s FOR UPDATE", [claim.operation.name]
        )
        yield claim, connection


async def test_what_others_have_locked_holds_up_nothing_else(here, locked):
    stuck, connection = locked
    others = [await here.start() for _ in range(5)]
    async with asyncio.timeout(STATEMENT_TIMEOUT.total_seconds() - 2):
        cancels = [
            asyncio.create_task(here.store.request_cancel(stuck.operation.name)) for _ in range(20)
        ]
        for claim in others:
            await here.store.record_progress(claim.lease, None, Payload("m", b"half"))
            await here.store.request_cancel(claim.operation.name)
            assert (await here.start()).operation.state is State.RUNNING
            assert (await here.store.finish(claim.lease, DONE)).done
        ends = [asyncio.create_task(here.store.finish(stuck.lease, DONE)) for _ in range(2)]
        assert (await here.run(DONE)).done
        assert not any(task.done() for task in [*cancels, *ends])
        await connection.rollback()
        cancelled = await asyncio.gather(*cancels)
        ended = await tried(*ends)
    assert {it.name for it in cancelled} == {stuck.operation.name}
    assert sum(isinstance(it, Operation) and it.done for it in ended) == 1


async def test_leases_of_records_that_others_have_locked_are_neither_renewed_nor_lost(here, locked):
    stuck, connection = locked
    other, lost = await here.start(), await here.start()
    await here.store.finish(lost.lease, DONE)
    leases = [stuck.lease, other.lease, lost.lease]
    expected = Renewal(lost=frozenset({lost.lease}), locked=frozenset({stuck.lease}))
    assert await here.store.renew(leases, LEASE) == expected
    found = await asyncio.to_thread(here.store.renew_from_thread, leases, LEASE)
    assert found == expected
    await connection.rollback()
    assert await here.store.renew([stuck.lease, other.lease], LEASE) == Renewal()


async def test_a_lock_that_is_never_given_back_fails_only_what_waits_for_it(
    here, locked, monkeypatch
):
    stuck, _ = locked
    monkeypatch.setattr(connection_module, "STATEMENT_TIMEOUT", timedelta(seconds=1))
    cancels = [here.store.request_cancel(stuck.operation.name) for _ in range(3)]
    *failed, inserted = await tried(*cancels, here.try_insert())
    assert all(isinstance(it, StoreUnavailableError) for it in failed)
    assert inserted.created
