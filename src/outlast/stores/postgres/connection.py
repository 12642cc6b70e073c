"""Connections to the database: how they are opened, and what its errors mean."""

import asyncio
import logging
import re
import select
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg import AsyncConnection, conninfo
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from outlast.domain.errors import StoreOpenError, StoreUnavailableError
from outlast.ports import Clock
from outlast.stores.addresses import described
from outlast.stores.postgres import statements
from outlast.stores.postgres.clock import DatabaseClock
from outlast.stores.postgres.transaction import Connection, Transaction

MINIMUM_VERSION = 150000
"""The oldest server that is supported: PostgreSQL 15."""

STATEMENT_TIMEOUT = timedelta(seconds=10)
IDLE_TIMEOUT = timedelta(seconds=5)
"""How long a transaction may stand still before the server ends it: its process may be stopped."""
CONNECT_TIMEOUT = timedelta(seconds=5)
LOCK_TIMEOUT = timedelta(milliseconds=200)
"""How long many writes together wait for what others have locked."""
RECONNECT_TIMEOUT = timedelta(seconds=2)
"""How long the pool tries to connect, with pauses that double, until it begins anew."""

_ENCODING = "UTF8"
# The pool warns of each connection that it loses. What that means here is logged by us.
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)

_PREPARE_AFTER = 5
"""How often a session gets a statement until it is prepared there."""
_KEEPALIVES = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
_TOO_MUCH = "54"
"""The class of errors of what goes beyond the database's own limits, such as an index's."""
_IN_VAIN = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)
"""What befalls a transaction because of others: it is to be run again."""


def parameters_of(url: str) -> str:
    """Return a connection string with what every connection of ours has.

    Raises StoreOpenError for a URL that cannot be what was meant.
    """
    given: dict[str, Any] | None = None
    with suppress(psycopg.ProgrammingError):  # its text may show the password
        given = conninfo.conninfo_to_dict(url)
    if given is None or _is_ambiguous(url) or re.search(r"[^0-9,]", given.get("port") or ""):
        raise StoreOpenError(
            f"{described(url)} cannot be read as the URL of a database: look at its parameters, "
            "and write special characters of the password as %XX"
        )
    ours: dict[str, Any] = {
        "application_name": "outlast",
        "connect_timeout": int(CONNECT_TIMEOUT.total_seconds()),
        **_KEEPALIVES,
    }
    return conninfo.make_conninfo(**(ours | given | {"client_encoding": _ENCODING}))


def _is_ambiguous(url: str) -> bool:
    """Whether a part of the password may be taken for the address, and shown as that."""
    authority, _, rest = url.partition("://")[2].partition("/")
    return authority.count("@") > 1 or "@" in rest.partition("?")[0]


async def connect(url: str, *, prepared: bool = True) -> Connection:
    """Open a connection of its own, which commits every statement by itself.

    Raises StoreOpenError for a database that does not keep every text.
    """
    connection: Connection = await AsyncConnection.connect(
        parameters_of(url), autocommit=True, prepare_threshold=_threshold(prepared)
    )
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != _ENCODING:
        await connection.close()
        raise StoreOpenError(
            f"{described(url)} keeps texts as {encoding}: a database that was created with "
            f"ENCODING '{_ENCODING}' is needed"
        )
    return connection


def _threshold(prepared: bool) -> int | None:
    return _PREPARE_AFTER if prepared else None


class Database:
    """A pool of connections, and transactions on them.

    No transaction depends on what an earlier one left in its session, unless statements
    are `prepared` there.
    """

    def __init__(
        self,
        url: str,
        timer: Clock,
        clock: Clock | None,
        connections: int,
        *,
        prepared: bool = True,
    ) -> None:
        self.place = described(url)
        self._parameters = parameters_of(url)
        self._replacement = clock
        self._database_clock = DatabaseClock(timer)
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            self._parameters,
            kwargs={"autocommit": True, "prepare_threshold": _threshold(prepared)},
            min_size=1,
            max_size=connections,
            timeout=CONNECT_TIMEOUT.total_seconds(),
            reconnect_timeout=RECONNECT_TIMEOUT.total_seconds(),
            reconnect_failed=_try_on,
            open=False,
            name="outlast",
            check=None,
        )

    async def open(self) -> None:
        """Connect; raise StoreOpenError if that fails."""
        try:
            await self._pool.open(wait=True, timeout=CONNECT_TIMEOUT.total_seconds())
            async with self.transaction():
                pass  # that tells the time
        except (PoolTimeout, StoreUnavailableError) as error:
            await self.close()
            raise StoreOpenError(f"{self.place} cannot be reached") from error

    async def close(self) -> None:
        """Close every connection, those in use as well."""
        await self._pool.close(timeout=1)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        """Yield a connection for statements that stand for themselves."""
        with translated_errors(self.place):
            async with AsyncExitStack() as stack:
                connection = await stack.enter_async_context(self._pool.connection())
                while _has_ended(connection):  # the pool replaces it
                    await connection.close()
                    await stack.aclose()
                    connection = await stack.enter_async_context(self._pool.connection())
                yield connection

    @asynccontextmanager
    async def transaction(
        self, lock_timeout: timedelta = STATEMENT_TIMEOUT
    ) -> AsyncIterator[Transaction]:
        """Yield a transaction, which is committed unless the block raises."""
        async with self.reading() as connection:
            try:
                asked_at = self._database_clock.monotonic()
                async with connection.pipeline():  # one round trip
                    await connection.execute(statements.BEGIN)
                    limits = _limits(lock_timeout)
                    cursor = await connection.execute(statements.LIMITS_AND_TIME, limits)
                ((*_, micros),) = await cursor.fetchall()
                now = self._now(micros, asked_at)
                transaction = Transaction(connection, now)
                yield transaction
                async with connection.pipeline():
                    await transaction.flush()
                    await connection.execute("COMMIT")
            except BaseException:
                await _roll_back(connection)
                raise

    @asynccontextmanager
    async def round_trip(self) -> AsyncIterator[Connection]:
        """Yield a connection for statements that are sent together, with their commit.

        What they return is there after the block.
        """
        async with self.reading() as connection:
            try:
                async with connection.pipeline():
                    await connection.execute(statements.BEGIN)
                    await connection.execute(statements.LIMITS_AND_TIME, _limits(LOCK_TIMEOUT))
                    yield connection
                    await connection.execute("COMMIT")
            except BaseException:
                await _roll_back(connection)
                raise

    @contextmanager
    def transaction_of_thread(self) -> Iterator[tuple[psycopg.Connection[Any], datetime]]:
        """Yield a connection of its own in a transaction, and the time; for another thread."""
        with (
            translated_errors(self.place),
            psycopg.connect(self._parameters, prepare_threshold=None) as connection,
        ):
            asked_at = self._database_clock.monotonic()
            limits = _limits(LOCK_TIMEOUT)
            ((*_, micros),) = connection.execute(statements.LIMITS_AND_TIME, limits).fetchall()
            yield connection, self._now(micros, asked_at)

    @property
    def clock(self) -> Clock:
        """The database's clock, or the one that replaces it."""
        return self._replacement or self._database_clock

    def _now(self, micros: int, asked_at: float) -> datetime:
        moment = self._database_clock.set(micros, asked_at)
        return moment if self._replacement is None else self._replacement.now()


def _limits(lock_timeout: timedelta) -> list[str]:
    """Return the limits of a transaction."""
    limits = STATEMENT_TIMEOUT, IDLE_TIMEOUT, lock_timeout
    return [f"{it // timedelta(milliseconds=1)}ms" for it in limits]


async def _try_on(pool: AsyncConnectionPool[Connection]) -> None:
    """Have a pool that has given up connecting begin anew, for who waits for a connection."""
    if pool.get_stats()["requests_waiting"]:  # so there is none that would have to be checked
        await pool.check()


def _has_ended(connection: Connection) -> bool:
    """Whether the server has ended a session: it said something, though nothing was asked."""
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


async def _roll_back(connection: Connection) -> None:
    """Roll back, also when the task was cancelled meanwhile; give up a connection that cannot."""
    try:
        async with asyncio.timeout(1):
            await connection.execute("ROLLBACK")
    except (psycopg.Error, TimeoutError, asyncio.CancelledError):
        await connection.close()


@contextmanager
def translated_errors(place: str) -> Iterator[None]:
    """Turn errors of the database into StoreUnavailableError."""
    try:
        yield
    except PoolTimeout as error:
        raise StoreUnavailableError(f"{place} does not answer") from error
    except psycopg.Error as error:
        raise StoreUnavailableError(f"{place}: {text_of(error)}") from error


def text_of(error: psycopg.Error) -> str:
    """Return what an error says, in one line."""
    text = error.diag.message_primary or str(error)
    return " ".join(text.split()) or type(error).__name__


def is_in_vain(error: BaseException | None) -> bool:
    """Whether a transaction failed because of others, and is to be run again."""
    return isinstance(error, _IN_VAIN)


def is_away(error: BaseException | None) -> bool:
    """Whether it is the database that failed, whatever it was asked for."""
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is not None:
        of_the_command = error.sqlstate.startswith(_TOO_MUCH) or is_locked(error)
        return not (of_the_command or is_in_vain(error))
    return isinstance(error, psycopg.OperationalError | PoolTimeout)


def is_locked(error: BaseException | None) -> bool:
    """Whether somebody else has locked what was to be written."""
    return isinstance(error, psycopg.errors.LockNotAvailable)
