"""Hints between processes, by LISTEN and NOTIFY on connections of their own."""

import asyncio
import json
import logging
import secrets
from collections.abc import Sequence
from contextlib import suppress

import psycopg

from outlast.domain.operation import State
from outlast.ports import Change, Clock
from outlast.stores.addresses import described
from outlast.stores.feed import LocalFeed
from outlast.stores.postgres.connection import connect
from outlast.stores.postgres.hints import ANYTHING, packed, unpacked
from outlast.stores.postgres.transaction import Connection

CHANNEL = "outlast"
RECONNECT_SECONDS = 1.0
CHECK_SECONDS = 15.0
"""How often a connection on which nothing is heard is tried."""

_NOTIFY = "SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, %s)"
"""Hints need not be durable: no write has to wait for its turn at the disk because of one."""
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
                async with await connect(self._url, prepared=self._prepared) as connection:
                    while True:
                        await self._news.wait()
                        self._news.clear()
                        await self._notify(connection)
            except psycopg.Error as error:
                self._vague = True  # what was under way may be lost
                _log.warning("other servers are not told of changes, trying again: %s", error)
                await self._clock.sleep(RECONNECT_SECONDS)
                self._news.set()

    async def _notify(self, connection: Connection) -> None:
        while self._waiting or self._vague:
            await connection.execute(_NOTIFY, [CHANNEL, self._next_payload()])
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
                async with await connect(self._listening_url) as connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    self.publish(None)
                    while True:
                        await self._listen(connection)
            except psycopg.Error as error:
                _log.warning(
                    "changes of other servers at %s are not heard, trying again: %s",
                    described(self._listening_url),
                    error,
                )
                await self._clock.sleep(RECONNECT_SECONDS)

    async def _listen(self, connection: Connection) -> None:
        """Hear for a while, then make sure that the connection is still there."""
        async for notification in connection.notifies(timeout=CHECK_SECONDS):
            self._hear(notification.payload)
        async with asyncio.timeout(CHECK_SECONDS):
            await connection.execute("SELECT 1")

    def _hear(self, payload: str) -> None:
        if payload.startswith(self._prefix):
            return  # our own
        try:
            _, hints = json.loads(payload)
            changes = unpacked(hints)
        except (TypeError, ValueError):
            changes = None  # whoever said that: there may be something
        self.publish(changes)


def _matters_elsewhere(change: Change) -> bool:
    """Whether other processes may have something to do: not when one of them has begun to run."""
    return change.state is not State.RUNNING or change.cancel_requested or change.deleted
