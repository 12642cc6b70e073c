"""The PostgreSQL server that is measured on: one of its own, or one that is given."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
from psycopg import conninfo, sql

from benchmarks.load import processor_seconds
from tests.postgresql import PostgresServer, installations

_DURABLE = ("fsync", "synchronous_commit", "full_page_writes")
_CONNECTIONS = "max_connections=200"


class DatabaseServer:
    """Makes the databases: each measurement gets an empty one."""

    def __init__(self, url: str) -> None:
        self.url = url
        """That of the database of this connection."""
        self._connection: psycopg.Connection[Any] = psycopg.connect(url, autocommit=True)
        self._numbers = count(1)
        self._postmaster = _parent(self._connection.info.backend_pid)

    def __str__(self) -> str:
        settings = ", ".join(f"{it}={self._one(f'SHOW {it}')}" for it in _DURABLE)
        return f"PostgreSQL {self._one('SHOW server_version')}, {settings}"

    @contextmanager
    def database(self) -> Iterator[str]:
        """Yield the URL of an empty database; drop it in the end, whoever uses it."""
        name = f"outlast_benchmark_{self._connection.info.backend_pid}_{next(self._numbers)}"
        quoted = sql.Identifier(name)
        self._connection.execute(sql.SQL("CREATE DATABASE {}").format(quoted))
        try:
            parts = re.fullmatch(r"(\w+://[^/?]*)(?:/[^?]*)?(\?.*)?", self.url)
            if parts is None:
                raise ValueError(f"not a URL: {self.url}")
            yield f"{parts[1]}/{name}{parts[2] or ''}"
        finally:
            self._connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(quoted))

    def processor_seconds(self) -> float:
        """Return how much processor time it has used; 0 if it is on another machine."""
        if self._postmaster is None:
            return 0.0
        children = Path(f"/proc/{self._postmaster}/task/{self._postmaster}/children")
        while True:
            with suppress(FileNotFoundError, ProcessLookupError):  # one has just ended: once more
                own = processor_seconds(self._postmaster, with_ended_children=True)
                return own + sum(processor_seconds(int(it)) for it in children.read_text().split())

    def close(self) -> None:
        """Let go of it."""
        self._connection.close()

    def _one(self, query: str) -> str:
        ((value,),) = self._connection.execute(query.encode()).fetchall()
        return str(value)


@contextmanager
def database_server(url: str | None, version: str) -> Iterator[DatabaseServer]:
    """Yield the server at a URL, or start one of a major version that commits durably."""
    if url is not None:
        conninfo.conninfo_to_dict(url)
        with _opened(url) as server:
            yield server
        return
    programs = installations().get(version)
    if programs is None:
        raise SystemExit(f"PostgreSQL {version} is not installed; give --url or another --version")
    settings = [f"{name}=on" for name in _DURABLE] + [_CONNECTIONS]
    options = [part for setting in settings for part in ("-c", setting)]
    with PostgresServer(programs, *options) as own, _opened(own.url()) as server:
        yield server


@contextmanager
def _opened(url: str) -> Iterator[DatabaseServer]:
    server = DatabaseServer(url)
    try:
        yield server
    finally:
        server.close()


def _parent(pid: int) -> int | None:
    """Return the process that started a server's session, if it is one of this machine."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists() or "postgres" not in (text := status.read_text()).splitlines()[0]:
        return None
    parent = re.search(r"^PPid:\s*(\d+)", text, re.MULTILINE)
    return int(parent[1]) if parent else None
