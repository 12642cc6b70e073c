"""Reaching a database that may not be up yet, by way of a pooler or not."""

import asyncio
import logging
import secrets
import struct
from collections.abc import Callable
from datetime import timedelta

import psycopg
from psycopg.pq.abc import PGconn

from outlast.domain.errors import StoreOpenError
from outlast.ports import Clock
from outlast.stores.addresses import described
from outlast.stores.postgres.connection import CONNECT_TIMEOUT, connect, text_of

RETRY_SECONDS = 1.0
LOG_SECONDS = 15.0

_PROTOCOL = 3 << 16
_CANNOT_CONNECT_NOW = b"C57P03"
"""What a server says that is starting, stopping or recovering, as a field of its message."""
_TLS = ("SSL", "certificate", "GSSAPI")
"""What errors of the client side of TLS speak of: the server is up."""

_log = logging.getLogger(__name__)


async def reach(url: str, direct: str | None, timer: Clock, patience: timedelta) -> bool:
    """Wait until a database is up; return whether its sessions can be relied on.

    They cannot behind a pooler. A server that refuses connections, does not answer, has no
    address yet or is still starting is waited for as long as `patience`; what only a person
    can mend raises StoreOpenError at once, as does a direct address of another database.
    """
    if direct is not None:
        await _until_up(direct, timer, patience)
        await _until_up(url, timer, patience)
        await _require_same(url, direct)
        return False
    if not await _until_up(url, timer, patience):
        return True
    _log.warning(
        "%s is behind a connection pooler: no statements are prepared there; and if it pools "
        "transactions, nothing is heard of other servers' changes in time: give the database's "
        "own address, too, as --store-direct (store_direct)",
        described(url),
    )
    return False


async def _until_up(url: str, timer: Clock, patience: timedelta) -> bool:
    """Return when a connection was accepted: whether a pooler did."""
    waiting = Waiting(described(url), timer.monotonic, patience)
    was_up = False
    while True:
        try:
            async with await connect(url) as connection:
                cursor = await connection.execute("SELECT pg_backend_pid()")
                # A pooler tells a number of its own, by which it knows whose query to cancel.
                return await cursor.fetchone() != (connection.info.backend_pid,)
        except psycopg.OperationalError as error:
            up = await _is_up(error)
            if up and was_up:  # it may have come up just after it refused, but not twice
                raise waiting.failure(text_of(error)) from error
            if not (up or waiting.may_go_on(text_of(error))):
                raise waiting.failure(text_of(error)) from error
            was_up = up
        except psycopg.Error as error:
            raise waiting.failure(text_of(error)) from error
        if not was_up:
            await timer.sleep(RETRY_SECONDS)


async def _require_same(url: str, direct: str) -> None:
    """Raise StoreOpenError if a URL leads to another database than the direct one.

    A copy has all that the database has, but not its locks: one that is held at the one
    address can be had at the other if that is another database.
    """
    key = secrets.randbits(63)
    place = described(direct)
    try:
        async with await connect(direct) as holder, holder.transaction():
            await holder.execute("SELECT pg_advisory_xact_lock(%s)", [key])
            place = described(url)
            async with await connect(url, prepared=False) as other:
                cursor = await other.execute("SELECT pg_try_advisory_xact_lock(%s)", [key])
                another = await cursor.fetchone() == (True,)
    except psycopg.Error as error:
        raise StoreOpenError(f"{place} cannot be used: {text_of(error)}") from error
    if another:
        raise StoreOpenError(
            f"{described(url)} and, as its direct address, {described(direct)} "
            "are not the same database"
        )


class Waiting:
    """How long has been waited for a database, and how that was told."""

    def __init__(self, place: str, monotonic: Callable[[], float], patience: timedelta) -> None:
        self._place = place
        self._monotonic = monotonic
        self._seconds = patience.total_seconds()
        self._began = monotonic()
        self._next_log = 0.0
        self._waited = False

    def may_go_on(self, reason: str) -> bool:
        """Whether there is time to try again; log that at times."""
        passed = self._monotonic() - self._began
        if passed >= self._seconds:
            return False
        if passed >= self._next_log:
            left = self._seconds - passed
            _log.warning("waiting up to %.0f s for %s: %s", left, self._place, reason)
            self._next_log = passed + LOG_SECONDS
        self._waited = True
        return True

    def failure(self, reason: str) -> StoreOpenError:
        """Return the error of one that is not waited for any longer."""
        passed = f" after {self._monotonic() - self._began:.0f} s" if self._waited else ""
        return StoreOpenError(f"{self._place} cannot be used{passed}: {reason}")


async def _is_up(error: psycopg.OperationalError) -> bool:
    """Whether a server that did not accept a connection is up all the same.

    An error of libpq tells what the server says in the server's language, and nothing else
    of it: so the server is asked once more.
    """
    refused = error.pgconn
    if refused is None:  # no answer, or no such host
        return False
    if any(word in str(error) for word in _TLS):
        return True
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT.total_seconds()):
            kind, answer = await _first_answer(refused)
    except (OSError, EOFError):
        return False
    return not (kind == b"E" and _CANNOT_CONNECT_NOW in answer.split(b"\0"))


async def _first_answer(refused: PGconn) -> tuple[bytes, bytes]:
    """Begin a session as its user; return the kind of the server's first message, and the rest."""
    host, address, port = (it.decode() for it in (refused.host, refused.hostaddr, refused.port))
    if host.startswith("/"):
        reader, writer = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
    else:
        reader, writer = await asyncio.open_connection(address or host, int(port))
    try:
        words = b"user\0" + refused.user + b"\0\0"
        writer.write(struct.pack("!ii", 8 + len(words), _PROTOCOL) + words)
        kind, length = struct.unpack("!ci", await reader.readexactly(5))
        return kind, await reader.readexactly(length - 4)
    finally:
        writer.close()
