"""The PostgreSQL store of a database that is not up yet."""

import asyncio
import logging
import re
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta

import psycopg
import pytest

from outlast.domain.errors import StoreOpenError
from outlast.engine.clock import SystemClock
from outlast.stores.postgres import PostgresStore
from outlast.stores.postgres.schema import LOCK_RETRY_SECONDS
from outlast.stores.postgres.sessions import LOCK
from tests.postgresql import CannotStartError, PostgresServer, installations

STARTING_UP = (b"57P03", "das Datenbanksystem startet")
NO_DATABASE = (b"3D000", "Datenbank »jobs« existiert nicht")
GONE = "postgresql://ada@/jobs?host=/nowhere"


class OwnClock(SystemClock):
    """Passes only where somebody sleeps, which may have consequences."""

    def __init__(self, after: dict[int, Callable[[], Awaitable[None]]] | None = None) -> None:
        super().__init__()
        self.slept: list[float] = []
        self._after = after or {}

    def monotonic(self) -> float:
        return sum(self.slept)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if (deed := self._after.get(len(self.slept))) is not None:
            await deed()


@pytest.fixture
def database(lacking: Callable[[str], None]) -> Iterator[PostgresServer]:
    """Return a server that is stopped."""
    try:
        server = PostgresServer(installations()["18"]).__enter__()
    except (CannotStartError, KeyError) as error:
        lacking(f"PostgreSQL 18 does not start: {error}")
    server.halt()
    yield server
    server.stop()


@asynccontextmanager
async def refusing(answer: tuple[bytes, str]) -> AsyncIterator[tuple[str, list[tuple[bytes, str]]]]:
    """Serve a database that refuses every client; yield its URL, and a list of how it does."""
    answers = [answer]

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            length, code = struct.unpack("!ii", await reader.readexactly(8))
            if code not in {80877103, 80877104}:  # neither TLS nor GSSAPI
                break
            writer.write(b"N")
        await reader.readexactly(length - 8)
        kind, text = answers[-1]
        fields = b"SFATAL\0VFATAL\0C" + kind + b"\0M" + text.encode() + b"\0\0"
        writer.write(b"E" + struct.pack("!i", len(fields) + 4) + fields)
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    try:
        yield f"postgresql://ada@127.0.0.1:{server.sockets[0].getsockname()[1]}/jobs", answers
    finally:
        server.close()


async def refusal(url: str, clock: OwnClock, seconds: int = 60) -> str:
    """Return what is said when a database is given up."""
    with pytest.raises(StoreOpenError) as refused:
        async with PostgresStore.open(url, timer=clock, patience=timedelta(seconds=seconds)):
            pass
    return refused.value.message


async def test_a_database_that_comes_up_later_is_waited_for(database, caplog):
    clock = OwnClock({3: lambda: asyncio.to_thread(database.start)})
    caplog.set_level(logging.INFO)
    url = database.url()
    async with PostgresStore.open(url, timer=clock, patience=timedelta(seconds=60)) as store:
        assert await store.stats() == []
    assert len(clock.slept) == 3
    (record,) = caplog.records
    assert record.message.startswith("waiting up to 60 s for postgresql://postgres@")
    assert "Is the server running locally" in record.message


async def test_a_database_that_does_not_come_up_is_given_up_in_time(caplog):
    clock = OwnClock()
    message = await refusal(GONE, clock)
    assert message.startswith("postgresql://ada@/nowhere/jobs cannot be used after 60 s: ")
    assert "No such file or directory" in message
    assert sum(clock.slept) == 60
    told = [record.message.partition(" for ")[0] for record in caplog.records]
    assert told == [f"waiting up to {seconds} s" for seconds in (60, 45, 30, 15)]


async def test_without_patience_nothing_is_waited_for(caplog):
    clock = OwnClock()
    assert "cannot be used: " in await refusal(GONE, clock, 0)
    assert not clock.slept
    assert not caplog.records


async def test_a_host_that_has_no_address_yet_is_waited_for():
    clock = OwnClock()
    message = await refusal("postgresql://ada@db.invalid/jobs", clock, 5)
    assert "cannot be used after 5 s: failed to resolve host 'db.invalid'" in message


async def test_a_server_that_is_starting_up_is_waited_for_in_whatever_language_it_says_so(caplog):
    async with refusing(STARTING_UP) as (url, answers):

        async def start() -> None:
            answers.append(NO_DATABASE)

        clock = OwnClock({2: start})
        message = await refusal(url, clock)
    assert len(clock.slept) == 2
    assert message.endswith("FATAL: Datenbank »jobs« existiert nicht")
    assert "das Datenbanksystem startet" in caplog.text


async def test_what_a_server_that_is_up_says_is_not_waited_for():
    async with refusing(NO_DATABASE) as (url, _):
        clock = OwnClock()
        message = await refusal(url, clock)
    assert not clock.slept
    assert "cannot be used: " in message


async def test_the_direct_address_is_waited_for_as_well(database):
    clock = OwnClock({2: lambda: asyncio.to_thread(database.start)})
    url, patience = database.url(), timedelta(seconds=60)
    async with PostgresStore.open(url, timer=clock, direct=url, patience=patience):
        pass
    assert len(clock.slept) == 2


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    """Return the URL of an empty database."""
    url = postgres.new_database()
    yield url
    postgres.drop(url)


@pytest.fixture
def holder(url: str) -> Iterator[psycopg.Connection]:
    """Return a session that holds the lock under which tables are made."""
    with psycopg.connect(url, application_name="the pooler", autocommit=True) as session:
        session.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        yield session


@pytest.mark.parametrize(("patience", "least"), [(60, 60), (0, 10)])
async def test_tables_that_stay_locked_are_given_up_in_time(url, holder, caplog, patience, least):
    clock = OwnClock()
    message = await refusal(url, clock, patience)
    told = rf"its tables are locked for a migration by pid {holder.info.backend_pid} \(the pooler, "
    assert re.search(rf"cannot be used after {least} s: {told}idle for [0-9]+ s\)$", message)
    assert sum(clock.slept) == least
    left = [
        re.search(r"^waiting up to ([0-9]+) s for .*: its tables", it) for it in caplog.messages
    ]
    assert [int(it[1]) for it in left if it] == list(range(least, 0, -15))


async def test_tables_that_are_unlocked_in_time_are_waited_for(url, holder):
    clock = OwnClock({3: lambda: asyncio.to_thread(holder.close)})
    async with PostgresStore.open(url, timer=clock) as store:
        assert await store.stats() == []
    assert clock.slept[:3] == [LOCK_RETRY_SECONDS] * 3
