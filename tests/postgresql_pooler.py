"""A pooler between clients and PostgreSQL that nothing survives which is tied to a session."""

import asyncio
import secrets
import struct
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import quote

from psycopg import conninfo

_PROTOCOL = 196608
_CANCEL, _TLS, _GSS = 80877102, 80877103, 80877104
_KNOWN = frozenset({"user", "database", "application_name", "client_encoding"})
"""What a client may ask for at its start: real poolers refuse most other parameters, too."""
_ENDS_ITS_TURN = frozenset({b"Q", b"S"})
"""What the server says ReadyForQuery to: a query, and the end of a pipeline."""


class Pooler:
    """Lends connections to a server for single transactions, in a thread of its own.

    No client gets the connection of its last transaction again for the next one, which has
    whatever other clients have left in its session; and notifications are dropped.
    """

    def __init__(self, url: str) -> None:
        self._socket = Path(str(conninfo.conninfo_to_dict(url)["host"])) / ".s.PGSQL.5432"
        self._idle: dict[tuple[str, str], deque[_Connection]] = {}
        self._clients: dict[bytes, _Client] = {}
        self._loop = asyncio.new_event_loop()
        self._port = 0
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="pooler", daemon=True)
        self.lent = 0
        """How many transactions were given a connection."""

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def url(self, direct: str) -> str:
        """Return the URL of a database by way of the pooler."""
        parameters = conninfo.conninfo_to_dict(direct)
        database = quote(str(parameters["dbname"]))
        return f"postgresql://{parameters['user']}@127.0.0.1:{self._port}/{database}"

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._serve_client, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connections in self._idle.values():
            for connection in connections:
                await connection.close()

    async def _serve_client(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError, EOFError, asyncio.CancelledError):
            parameters = await self._started(reader, writer)
            if parameters is not None:
                client = _Client(self, reader, writer, (parameters["user"], parameters["database"]))
                self._clients[client.key] = client
                try:
                    await client.serve()
                finally:
                    del self._clients[client.key]
        writer.close()

    async def _started(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Mapping[str, str] | None:
        """Return what a client asks for at its start; None if it is not to be served."""
        while True:
            (length,) = struct.unpack("!i", await reader.readexactly(4))
            body = await reader.readexactly(length - 4)
            (code,) = struct.unpack("!i", body[:4])
            if code == _CANCEL:
                if (client := self._clients.get(body[4:])) is not None:
                    await client.cancel()
                return None
            if code not in {_TLS, _GSS}:
                break
            writer.write(b"N")
        words = body[4:].rstrip(b"\0").decode().split("\0")
        parameters = dict(zip(words[::2], words[1::2], strict=True))
        unknown = parameters.keys() - _KNOWN
        if code == _PROTOCOL and not unknown:
            return parameters
        text = f"unsupported startup parameter: {', '.join(unknown)}"
        writer.write(_message(b"E", f"SFATAL\0C08P01\0M{text}\0\0".encode()))
        return None

    async def lend(
        self, database: tuple[str, str], last: "_Connection | None" = None
    ) -> "_Connection":
        """Return a connection that is not the last one, of those that were idle the longest."""
        self.lent += 1
        idle = self._idle.setdefault(database, deque())
        for connection in idle:
            if connection is not last:
                idle.remove(connection)
                return connection
        return await _Connection.open(self._socket, database)

    def take_back(self, database: tuple[str, str], connection: "_Connection") -> None:
        """Keep a connection for the next transaction, whoever's that is."""
        self._idle[database].append(connection)


@dataclass(eq=False)
class _Connection:
    """A connection to the server."""

    socket: Path
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    settings: list[bytes] = field(default_factory=list)
    """What the server said of its parameters."""
    key: bytes = b""

    @classmethod
    async def open(cls, socket: Path, database: tuple[str, str]) -> Self:
        connection = cls(socket, *await asyncio.open_unix_connection(socket))
        words = f"user\0{database[0]}\0database\0{database[1]}\0\0".encode()
        connection.writer.write(struct.pack("!ii", len(words) + 8, _PROTOCOL) + words)
        while True:
            kind, message = await _read(connection.reader)
            if kind == b"S":
                connection.settings.append(message)
            elif kind == b"K":
                connection.key = message[5:]
            elif kind == b"Z":
                return connection
            elif kind == b"E":
                raise ConnectionRefusedError(message)

    async def cancel(self) -> None:
        """Have the server cancel what it is doing."""
        _, writer = await asyncio.open_unix_connection(self.socket)
        writer.write(struct.pack("!ii", len(self.key) + 8, _CANCEL) + self.key)
        await writer.drain()
        writer.close()

    async def close(self) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()


class _Client:
    """A client, which has a connection from the first message of a transaction to its end."""

    def __init__(
        self,
        pooler: Pooler,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        database: tuple[str, str],
    ) -> None:
        self.key = secrets.token_bytes(8)
        self._pooler = pooler
        self._reader = reader
        self._writer = writer
        self._database = database
        self._connection: _Connection | None = None
        self._last: _Connection | None = None
        self._answers: asyncio.Task[None] | None = None
        self._turns = 0
        self._within_a_turn = False

    async def serve(self) -> None:
        """Forward what the client says, until it goes."""
        try:
            await self._welcome()
            while True:
                kind, message = await _read(self._reader)
                if kind == b"X":
                    return
                if self._connection is None:
                    self._connection = await self._pooler.lend(self._database, self._last)
                    self._answers = asyncio.create_task(self._answer(self._connection))
                self._within_a_turn = kind not in _ENDS_ITS_TURN
                self._turns += not self._within_a_turn
                self._connection.writer.write(message)
                await self._connection.writer.drain()
        finally:
            if self._connection is not None:  # in the middle of a transaction
                await self._connection.close()
            if self._answers is not None:
                self._answers.cancel()

    async def cancel(self) -> None:
        if self._connection is not None:
            await self._connection.cancel()

    async def _welcome(self) -> None:
        connection = await self._pooler.lend(self._database)
        self._pooler.take_back(self._database, connection)
        self._writer.write(_message(b"R", struct.pack("!i", 0)))
        self._writer.writelines(connection.settings)
        self._writer.write(_message(b"K", self.key) + _message(b"Z", b"I"))

    async def _answer(self, connection: _Connection) -> None:
        """Forward what the server says, until the transaction is over."""
        try:
            while True:
                kind, message = await _read(connection.reader)
                if kind == b"A":
                    continue
                self._writer.write(message)
                self._turns -= kind == b"Z"
                if message == _message(b"Z", b"I") and not (self._turns or self._within_a_turn):
                    self._last, self._connection = connection, None
                    self._pooler.take_back(self._database, connection)
                    return
                await self._writer.drain()
        except (OSError, EOFError):  # the server has gone
            self._writer.close()


async def _read(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Return the kind of a message, and all of it."""
    head = await reader.readexactly(5)
    kind, length = struct.unpack("!ci", head)
    return kind, head + await reader.readexactly(length - 4)


def _message(kind: bytes, body: bytes) -> bytes:
    return struct.pack("!ci", kind, len(body) + 4) + body
