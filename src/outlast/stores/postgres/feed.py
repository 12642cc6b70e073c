"""Hints between processes, by LISTEN and NOTIFY on connections of their own."""

import asyncio
import logging
import random
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from outlast.domain.operation import State
from outlast.outages import Outage
from outlast.ports import Change, Clock, TimerHandle
from outlast.stores.addresses import described
from outlast.stores.feed import LocalFeed
from outlast.stores.postgres.connection import connect
from outlast.stores.postgres.hints import ANYTHING, packed, unpacked
from outlast.stores.postgres.transaction import Connection

CHANNEL = "outlast"
RECONNECT_SECONDS = 1.0
"""How long is waited until a connection is replaced, give or take a half of it."""
CONNECT_SECONDS = 30.0
"""How long connecting may take, to all the hosts that an address has."""
CHECK_SECONDS = 15.0
"""How often a connection on which nothing is heard is tried."""
ANSWER_SECONDS = 15.0
"""How long the database may take to answer, before its connection is given up."""
LEAVE_SECONDS = 1.0
"""How long psycopg may take to cancel what is given up."""
VAGUE_SECONDS = 1.0
"""How much time is between hints that anything may have changed: they make everybody look."""

_NOTIFY = "SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, %s)"
"""Hints need not be durable: no write has to wait for its turn at the disk because of one."""
_STAY = "SET idle_session_timeout = 0"
"""These sessions have nothing to say for long, which is no reason to end them."""
_MAX_WAITING = 10_000
"""How many changes wait to be told before it is only told that there are some."""

_log = logging.getLogger(__name__)


class PostgresFeed(LocalFeed):
    """Tells this process of its own changes at once, and others by way of the database.

    What others are told takes the writes no time. When the connection was lost, what may
    have been missed is unknown: everything is to be looked at again.
    """

    def __init__(
        self, url: str, clock: Clock, *, direct: str | None = None, prepared: bool = True
    ) -> None:
        super().__init__()
        self._url = url
        self._listening_url = direct or url
        self._prepared = prepared
        self._clock = clock
        self._prefix = f'["{secrets.token_hex(4)}",'
        self._waiting: dict[str, Change] = {}
        self._vague = False
        self._news = asyncio.Event()
        self._told = asyncio.Event()
        self._told.set()
        others = f"other servers at {described(self._listening_url)}"
        self._untold = Outage(
            _log,
            clock.monotonic,
            f"{others} are not told of changes",
            f"{others} are told of changes again",
        )
        self._unheard = Outage(
            _log,
            clock.monotonic,
            f"changes of {others} are not heard",
            f"changes of {others} are heard again",
        )
        self._pause: TimerHandle | None = None
        self._vague_again = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to tell others, and to listen to them."""
        for name, work in (("notifier", self._notify_forever), ("listener", self._listen_forever)):
            self._tasks.append(asyncio.create_task(work(), name=f"outlast-postgres-{name}"))

    async def stop(self) -> None:
        """Tell what is left to be told, if that is quick, and end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._told.wait()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._pause is not None:
            self._pause.cancel()

    def tell(self, changes: Sequence[Change]) -> None:
        """Tell everybody of what has just been committed."""
        if not changes:
            return
        self.publish(changes)
        for change in changes:
            if _matters_elsewhere(change):
                self._waiting[change.name] = change
            else:
                self._waiting.pop(change.name, None)
        if not (self._waiting or self._vague):
            return
        if len(self._waiting) > _MAX_WAITING:
            self._waiting.clear()
            self._vague = True
        self._told.clear()
        self._news.set()

    async def _notify_forever(self) -> None:
        while True:
            try:
                async with _session(self._url, prepared=self._prepared) as connection:
                    if self._prepared:  # a pooler's sessions are not ours to change
                        await _execute(connection, _STAY)
                    while True:
                        await self._news.wait()
                        self._news.clear()
                        await self._notify(connection)
            except Exception as error:  # noqa: BLE001  # nothing must end the task
                self._vague = True  # what was under way may be lost
                self._untold.on_failure(_text_of(error))
                await self._before_reconnecting()
                self._news.set()

    async def _notify(self, connection: Connection) -> None:
        while self._waiting or self._vague:
            await _execute(connection, _NOTIFY, CHANNEL, self._next_payload())
            self._untold.on_success()
        self._told.set()

    def _next_payload(self) -> str:
        """Return as many changes as one notification holds."""
        if self._vague:
            self._waiting.clear()
            self._vague = False
            return f"{self._prefix}{ANYTHING}]"
        return f"{self._prefix}{packed(self._waiting)}]"

    async def _listen_forever(self) -> None:
        while True:
            try:
                async with _session(self._listening_url) as connection:
                    await _execute(connection, _STAY)
                    await _execute(connection, f"LISTEN {CHANNEL}")
                    self._unheard.on_success()
                    self._hear_vaguely()
                    while True:
                        await self._listen(connection)
            except Exception as error:  # noqa: BLE001  # nothing must end the task
                self._unheard.on_failure(_text_of(error))
                await self._before_reconnecting()

    async def _before_reconnecting(self) -> None:
        """Wait, not as long as other servers do: they have lost theirs at the same time."""
        await self._clock.sleep(RECONNECT_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311

    async def _listen(self, connection: Connection) -> None:
        """Hear for a while, then make sure that the connection is still there."""
        async for notification in connection.notifies(timeout=CHECK_SECONDS):
            self._hear(notification.payload)
        await _execute(connection, "SELECT 1")

    def _hear(self, payload: str) -> None:
        if payload.startswith(self._prefix):
            return  # our own
        _, _, hints = payload.partition(",")
        changes = unpacked(hints.removesuffix("]"))
        if changes is None:
            self._hear_vaguely()
        else:
            self.publish(changes)

    def _hear_vaguely(self) -> None:
        """Say that anything may have changed: now, or when it was not said for a while."""
        if self._pause is not None:
            self._vague_again = True
            return
        self.publish(None)
        self._pause = self._clock.call_later(VAGUE_SECONDS, self._end_pause)

    def _end_pause(self) -> None:
        self._pause = None
        if self._vague_again:
            self._vague_again = False
            self._hear_vaguely()


@asynccontextmanager
async def _session(url: str, *, prepared: bool = True) -> AsyncIterator[Connection]:
    """Yield a connection, which is closed without asking the database."""
    async with asyncio.timeout(CONNECT_SECONDS):
        connection = await connect(url, prepared=prepared)
    try:
        yield connection
    finally:
        await connection.close()


async def _execute(connection: Connection, statement: str, *parameters: str) -> None:
    """Execute a statement; raise TimeoutError if there is no answer.

    The first timeout has psycopg ask the database to cancel, the second one ends that.
    """
    async with asyncio.timeout(ANSWER_SECONDS + LEAVE_SECONDS), asyncio.timeout(ANSWER_SECONDS):
        await connection.execute(statement.encode(), parameters or None)


def _text_of(error: Exception) -> str:
    return str(error) or ("no answer" if isinstance(error, TimeoutError) else repr(error))


def _matters_elsewhere(change: Change) -> bool:
    """Whether other processes may have something to do: not when one of them has begun to run."""
    return change.state is not State.RUNNING or change.cancel_requested or change.deleted
