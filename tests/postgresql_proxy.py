"""A network between servers and PostgreSQL, which tests may cut."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self
from urllib.parse import quote

from psycopg import conninfo

_CHUNK_BYTES = 65_536


class PostgresProxy:
    """Forwards TCP connections to a server, in a thread of its own."""

    def __init__(self, url: str) -> None:
        parameters = conninfo.conninfo_to_dict(url)
        self._socket = Path(str(parameters["host"])) / ".s.PGSQL.5432"
        self._user, self._database = parameters["user"], parameters["dbname"]
        self._refused: bytes | None = None
        self._held: bytes | None = None
        self._loop = asyncio.new_event_loop()
        self._port = 0
        self._clients: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="postgres-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    @property
    def url(self) -> str:
        """The database's URL by way of the proxy."""
        return f"postgresql://{self._user}@127.0.0.1:{self._port}/{quote(str(self._database))}"

    def cut(self) -> None:
        """Drop every connection."""
        self._do(self._drop_all)

    def refuse(self, words: bytes | None) -> None:
        """From now on drop each connection on which a client says the words; None lets all be."""
        self._do(lambda: setattr(self, "_refused", words))

    def hold(self, words: bytes | None) -> None:
        """Pass on nothing more of a client that says the words, nor these; its connection stays."""
        self._do(lambda: setattr(self, "_held", words))

    def _do(self, what: Callable[[], None]) -> None:
        """Have something done by the thread, and return when it is."""
        done = threading.Event()

        def do() -> None:
            what()
            done.set()

        self._loop.call_soon_threadsafe(do)
        done.wait()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        self._drop_all()
        if self._clients:
            await asyncio.wait(self._clients)

    def _drop_all(self) -> None:
        for client in self._clients.values():
            client.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_unix_connection(self._socket)
        except OSError:  # there is no server just now
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._clients[task] = writer
        pumps = [
            asyncio.create_task(self._pump(reader, to_server, heard=True)),
            asyncio.create_task(self._pump(from_server, writer, heard=False)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in (writer, to_server):
                end.transport.abort()
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)
            del self._clients[task]

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, heard: bool
    ) -> None:
        """Pass on what comes, until either end is gone."""
        try:
            while data := await source.read(_CHUNK_BYTES):
                if heard and self._refused is not None and self._refused in data:
                    return
                if heard and self._held is not None and self._held in data:
                    await self._stop.wait()
                sink.write(data)
                await sink.drain()
        except OSError:  # one of them is gone already
            return
