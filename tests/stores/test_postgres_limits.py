"""How nodes that claim at the same time keep a limit, whatever becomes of one of them."""

from contextlib import asynccontextmanager

import pytest

from outlast.domain.operation import State
from outlast.engine.clock import SystemClock
from outlast.stores.postgres import PostgresStore, connection
from outlast.stores.postgres.limits import NAMESPACE, Places
from outlast.stores.postgres.transaction import Transaction
from outlast.testing.contract.driver import LEASE, METHOD, OTHER_METHOD, Driver

LOCK = b"SELECT pg_advisory_xact_lock(%s, hashtext(%s))"
BEGIN_TO_RUN = b"""
UPDATE outlast.operations SET state = 'RUNNING', ready_time = ready_time + 60000000 WHERE name = %s
"""
SLOTS = {METHOD: 5, OTHER_METHOD: 5}


@pytest.fixture
def url(postgres):
    """Return the URL of an empty database."""
    url = postgres.new_database()
    yield url
    postgres.drop(url)


@pytest.fixture
async def store(url, clock):
    async with PostgresStore.open(url, timer=SystemClock(), clock=clock) as store:
        yield store


@pytest.fixture
def standing_still(url):
    """Return a node that stands still while it gives operations of a method."""

    @asynccontextmanager
    async def standing_still(method):
        async with await connection.connect(url) as node, node.transaction():
            await node.execute(LOCK, [NAMESPACE, method])
            yield

    return standing_still


async def claim(store, limits):
    return await store.claim("worker-1", SLOTS, 10, LEASE, max_running=limits)


async def test_a_node_that_stands_still_in_a_claim_holds_up_its_method_alone(
    store, clock, standing_still
):
    driver = Driver(store, clock)
    waiting = await driver.insert()
    other = await driver.insert(method=OTHER_METHOD)
    async with standing_still(METHOD):
        claims = await claim(store, {METHOD: 1, OTHER_METHOD: 1})
        assert [it.operation.name for it in claims.claims] == [other.name]
        assert (claims.contended, claims.held_back) == ({METHOD}, {OTHER_METHOD})
        assert claims.next_ready_time == clock.now() + LEASE
    claims = await claim(store, {METHOD: 1})
    assert [it.operation.name for it in claims.claims] == [waiting.name]
    assert claims.contended == frozenset()


async def test_what_lost_its_lease_is_taken_over_while_another_node_stands_still(
    store, clock, standing_still
):
    driver = Driver(store, clock)
    running = await driver.start()
    await driver.insert()
    await driver.lose_lease()
    async with standing_still(METHOD):
        claims = await claim(store, {METHOD: 2})
    assert [it.operation.name for it in claims.claims] == [running.operation.name]
    assert claims.contended == {METHOD}


async def test_a_method_at_its_limit_or_of_which_nothing_waits_is_not_contended(
    store, clock, standing_still
):
    driver = Driver(store, clock)
    await driver.start()
    await driver.insert()
    async with standing_still(METHOD), standing_still(OTHER_METHOD):
        claims = await claim(store, {METHOD: 1, OTHER_METHOD: 1})
    assert (claims.contended, claims.held_back) == (frozenset(), {METHOD})


async def test_what_others_gave_before_the_lock_was_free_is_counted(url, store, clock, monkeypatch):
    driver = Driver(store, clock)
    first, second = [await driver.insert() for _ in range(2)]
    right = Places._count

    async def count(places, lockable):
        locked = await right(places, lockable)
        async with await connection.connect(url) as rival:
            await rival.execute(BEGIN_TO_RUN, [first.name])
        return locked

    monkeypatch.setattr(Places, "_count", count)
    claims = await claim(store, {METHOD: 1})
    assert claims.claims == []
    assert claims.held_back == {METHOD}
    assert await driver.states(second.name) == [State.PENDING]


async def test_without_a_limit_of_what_is_asked_for_nothing_is_counted(store, clock, monkeypatch):
    driver = Driver(store, clock)
    right, executed = Transaction.execute, []

    async def execute(transaction, sql, parameters=None):
        executed.append(sql)
        return await right(transaction, sql, parameters)

    monkeypatch.setattr(Transaction, "execute", execute)
    statements = []
    for limits in (None, {}, {"example.v1.Books/Burn": 1}, {METHOD: 1}):
        await driver.insert()
        executed.clear()
        assert len((await claim(store, limits)).claims) == (METHOD not in (limits or {}))
        statements.append([*executed])
    assert statements[0] == statements[1] == statements[2] != statements[3]
