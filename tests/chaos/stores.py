"""What the servers keep operations in, and what befalls that."""

import asyncio
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path
from random import Random

import psycopg

from tests.chaos.history import Outage
from tests.postgresql import PostgresServer, installations
from tests.postgresql_proxy import PostgresProxy

_UNFINISHED = "SELECT name FROM {} WHERE state IN ('PENDING', 'RUNNING')"
_END_SESSIONS = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND application_name = 'outlast'
"""
_LISTENERS = " AND query LIKE 'LISTEN%'"
_SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'outlast'"
_MOST_SESSIONS = 60
"""Ten of each of four processes, and some of processes that were killed a moment ago."""
_END_SECONDS = 10.0
"""How long the last sessions may take to end when nobody needs them any more."""


class Store(ABC):
    """A store that several servers share."""

    argument: str
    """What servers are told it is."""

    def __init__(self) -> None:
        self.outages: list[Outage] = []

    @abstractmethod
    async def trouble(self, random: Random, seconds: float) -> None:
        """Do to the store what happens to stores, for so many seconds."""

    @abstractmethod
    def unfinished(self) -> Sequence[str]:
        """Return the operations that are not done, hidden ones too."""

    @abstractmethod
    def faults(self) -> Iterator[str]:
        """Yield what is wrong with what is kept."""


class SqliteFile(Store):
    """A file, to which nothing happens."""

    argument = "store.db"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._path = folder / self.argument

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path) -> AsyncIterator[Store]:
        """Yield a file that servers make."""
        yield cls(folder)

    async def trouble(self, random: Random, seconds: float) -> None:
        pass

    def unfinished(self) -> Sequence[str]:
        with closing(sqlite3.connect(self._path, timeout=30)) as connection:
            return [name for (name,) in connection.execute(_UNFINISHED.format("operations"))]

    def faults(self) -> Iterator[str]:
        with closing(sqlite3.connect(self._path, timeout=30)) as connection:
            for (answer,) in connection.execute("PRAGMA integrity_check"):
                if answer != "ok":
                    yield f"the file is damaged: {answer}"
            for row in connection.execute("PRAGMA foreign_key_check"):
                yield f"the file has a row without its operation: {row}"


class PostgresDatabase(Store):
    """A database whose server crashes, and ends its sessions, behind a network that is cut."""

    def __init__(self, server: PostgresServer, network: PostgresProxy) -> None:
        super().__init__()
        self._server = server
        self._network = network
        self._most_sessions = 0
        self.argument = network.url

    @classmethod
    @asynccontextmanager
    async def open(cls, _folder: Path) -> AsyncIterator[Store]:
        """Yield a database of a server of its own, which makes every commit durable."""
        programs = installations()
        newest = programs[max(programs, key=int)]
        server = await asyncio.to_thread(PostgresServer, newest, "-c", "max_connections=100")
        with server, PostgresProxy(server.url()) as network:
            yield cls(server, network)

    async def trouble(self, random: Random, seconds: float) -> None:
        deeds = {
            "crash": self._crash,
            "deafen": lambda: self._server.execute(_END_SESSIONS + _LISTENERS),
            "cut off": lambda: self._server.execute(_END_SESSIONS),
            "drop": self._network.cut,
        }
        end = time.monotonic() + seconds
        ahead: list[str] = []
        while True:
            quiet = random.uniform(0.5, 4.0)
            if time.monotonic() + quiet >= end:
                return
            await asyncio.sleep(quiet)
            await asyncio.to_thread(self._count_sessions)
            if not ahead:  # each of them as often as the others
                ahead = random.sample(list(deeds), len(deeds))
            deed = ahead.pop()
            began = time.monotonic()
            await asyncio.to_thread(deeds[deed])
            self.outages.append(Outage("postgres", deed, began, time.monotonic()))

    def _crash(self) -> None:
        self._server.halt("immediate")
        self._server.start()

    def _count_sessions(self) -> int:
        with psycopg.connect(self._server.url()) as connection:
            ((count,),) = connection.execute(_SESSIONS).fetchall()
        self._most_sessions = max(self._most_sessions, count)
        return int(count)

    def unfinished(self) -> Sequence[str]:
        with psycopg.connect(self._server.url()) as connection:
            sql = _UNFINISHED.format("outlast.operations")
            return [name for (name,) in connection.execute(sql.encode())]

    def faults(self) -> Iterator[str]:
        if self._most_sessions > _MOST_SESSIONS:
            yield f"there were {self._most_sessions} sessions at a time"
        end = time.monotonic() + _END_SECONDS
        while left := self._count_sessions():
            if time.monotonic() > end:
                yield f"{left} sessions are left of processes that have ended"
                break
            time.sleep(0.1)
        with psycopg.connect(self._server.url()) as connection:
            found = connection.execute(
                "SELECT name FROM outlast.operations o"
                " LEFT JOIN outlast.requests r ON r.operation = o.id WHERE r.operation IS NULL"
            )
            for (name,) in found:
                yield f"{name} has no request"


KINDS: dict[str, type[SqliteFile] | type[PostgresDatabase]] = {
    "sqlite": SqliteFile,
    "postgres": PostgresDatabase,
}


def opened(kind: str, folder: Path) -> AbstractAsyncContextManager[Store]:
    """Open a store of a kind."""
    return KINDS[kind].open(folder)
