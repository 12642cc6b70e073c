"""The PostgreSQL store through poolers that lend a connection for one transaction."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta

import psycopg
import pytest

from outlast.domain.errors import StoreOpenError
from outlast.domain.operation import State
from outlast.domain.status import Payload
from outlast.domain.transitions import Succeeded
from outlast.engine.clock import SystemClock
from outlast.ports import Changes, OperationStore
from outlast.server.migration import migrate_store
from outlast.stores.postgres import PostgresStore
from outlast.stores.postgres.schema import prepare
from outlast.stores.sqlite import SqliteStore
from outlast.testing.clock import ManualClock
from outlast.testing.contract.claims import ClaimContract
from outlast.testing.contract.driver import Driver
from outlast.testing.contract.endings import FinishContract
from outlast.testing.contract.feed import ChangesContract
from outlast.testing.contract.inserts import InsertContract
from outlast.testing.contract.leases import RenewContract
from outlast.testing.contract.reads import ListContract
from tests import pgbouncer
from tests.pgbouncer import PgBouncer
from tests.postgresql import PostgresServer
from tests.postgresql_pooler import Pooler

TIMER = SystemClock()
ROUNDS = 12
"""More than it takes until a statement is prepared in a session that can be relied on."""


@pytest.fixture(scope="module")
def postgres(postgres_of: Callable[[str], PostgresServer]) -> PostgresServer:
    return postgres_of("18")


@pytest.fixture(scope="module", params=["our own", "PgBouncer"])
def pooler(
    request: pytest.FixtureRequest, postgres: PostgresServer
) -> Iterator[Pooler | PgBouncer]:
    if request.param == "PgBouncer" and pgbouncer.program() is None:
        pytest.skip("PgBouncer is not installed; a pooler of our own stands for it")
    kind = Pooler if request.param == "our own" else PgBouncer
    with kind(postgres.url()) as pooler:
        yield pooler


@pytest.fixture
def direct(postgres: PostgresServer) -> Iterator[str]:
    """Return the URL of an empty database."""
    url = postgres.new_database()
    yield url
    postgres.drop_for_good(url)


@pytest.fixture
def url(pooler: Pooler | PgBouncer, direct: str) -> str:
    """Return the URL of that database by way of the pooler."""
    return pooler.url(direct)


@pytest.fixture
async def nodes(
    clock: ManualClock, url: str, direct: str
) -> AsyncIterator[tuple[PostgresStore, PostgresStore]]:
    """Yield the stores of two nodes."""
    async with (
        PostgresStore.open(url, timer=TIMER, clock=clock, direct=direct) as one,
        PostgresStore.open(url, timer=TIMER, clock=clock, direct=direct) as other,
    ):
        yield one, other


class TestPostgresStoreThroughAPooler(
    InsertContract,
    ClaimContract,
    RenewContract,
    FinishContract,
    ListContract,
    ChangesContract,
):
    """Keeps the parts of the contract that differ most in what they say to the database."""

    @pytest.fixture
    def store(self, nodes: tuple[PostgresStore, PostgresStore]) -> OperationStore:
        return nodes[0]

    @pytest.fixture
    def other(self, nodes: tuple[PostgresStore, PostgresStore]) -> OperationStore:
        return nodes[1]


async def work(store: OperationStore, clock: ManualClock, node: str) -> None:
    """Do everything that a server does, again and again."""
    driver = Driver(store, clock)
    for number in range(ROUNDS):
        name = f"operations/{node}-{number}"
        await driver.insert(name=name, method=node)
        (claim,) = await driver.claim(methods=(node,))
        await store.record_step(claim.lease, "step", Payload("s", b"result"))
        assert not (await store.renew([claim.lease], timedelta(hours=1))).lost
        renewal = await asyncio.to_thread(
            store.renew_from_thread, [claim.lease], timedelta(hours=1)
        )
        assert not renewal.lost
        await store.finish(claim.lease, Succeeded(Payload("r", b"")))
        assert (await store.get(claim.operation.name)).state is State.SUCCEEDED
        await store.stats()


async def test_no_transaction_depends_on_the_session_of_another_one(nodes, clock):
    await asyncio.gather(*(work(it, clock, name) for it, name in zip(nodes, "ab", strict=True)))


async def test_hints_take_the_direct_address(url, direct, clock):
    heard: asyncio.Queue[Changes] = asyncio.Queue()
    options = {"timer": TIMER, "clock": clock, "direct": direct}
    async with PostgresStore.open(url, **options) as store, asyncio.timeout(20):
        store.changes.subscribe(heard.put_nowait)
        assert await heard.get() is None  # listens
        async with PostgresStore.open(url, **options) as other:
            name = (await Driver(other, clock).insert()).name
            assert [change.name for change in await heard.get() or ()] == [name]


async def test_a_forgotten_direct_address_is_told_and_costs_hints_only(url, clock, caplog):
    async with (
        PostgresStore.open(url, timer=TIMER, clock=clock) as store,
        PostgresStore.open(url, timer=TIMER, clock=clock) as other,
    ):
        assert "is behind a connection pooler" in caplog.text
        assert "--store-direct" in caplog.text
        await asyncio.gather(work(store, clock, "a"), work(other, clock, "b"))


async def test_without_a_pooler_nothing_is_told_of_one(direct, clock, caplog):
    caplog.set_level(logging.INFO)
    async with PostgresStore.open(direct, timer=TIMER, clock=clock):
        assert not caplog.records


async def test_a_direct_address_of_another_database_is_refused(url, direct, clock, postgres):
    another = postgres.new_database()
    try:
        for with_tables in (False, True):
            if with_tables:
                async with PostgresStore.open(direct, timer=TIMER, clock=clock):
                    pass
            await refuse_as_direct(another, url, clock)
            with psycopg.connect(another) as database:
                made = database.execute("SELECT to_regnamespace('outlast')").fetchone()
            assert made == (None,)
    finally:
        postgres.drop_for_good(another)


async def test_a_direct_address_of_a_copy_is_refused(url, direct, clock, postgres):
    await prepare(direct, TIMER)
    names = [psycopg.conninfo.conninfo_to_dict(direct)["dbname"], "a_copy"]
    postgres.execute("CREATE DATABASE {1} TEMPLATE {0}".format(*names))
    copy = postgres.url(names[1])
    try:
        with psycopg.connect(direct) as one, psycopg.connect(copy) as other:
            secret = "SELECT value FROM outlast.settings WHERE key = 'secret'"
            assert one.execute(secret).fetchall() == other.execute(secret).fetchall()
        await refuse_as_direct(copy, url, clock)
    finally:
        postgres.drop_for_good(copy)


async def refuse_as_direct(direct: str, url: str, clock: ManualClock) -> None:
    with pytest.raises(StoreOpenError, match="are not the same database"):
        async with PostgresStore.open(url, timer=TIMER, clock=clock, direct=direct):
            pass


@pytest.mark.parametrize("role", ["source", "target"])
async def test_nothing_is_carried_through_a_pooler_and_nothing_is_left_in_it(
    url, direct, tmp_path, role
):
    await prepare(direct, TIMER)
    file = str(tmp_path / "operations.db")
    async with SqliteStore.open(file, clock=TIMER):
        pass
    ends = (url, file) if role == "source" else (file, url)
    with pytest.raises(StoreOpenError, match="is behind a connection pooler"):
        await asyncio.to_thread(migrate_store, *ends, print)
    with psycopg.connect(direct) as database:
        locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        assert database.execute(locks).fetchone() == (0,)
