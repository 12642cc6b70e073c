"""Reaching a database that may not be up yet, by way of a pooler or not."""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta

import psycopg
from psycopg.pq import PGconn, Ping

from outlast.domain.errors import StoreOpenError
from outlast.ports import Clock
from outlast.stores.addresses import described
from outlast.stores.postgres.connection import connect, parameters_of, text_of

RETRY_SECONDS = 1.0
LOG_SECONDS = 15.0

_NOT_UP = frozenset({Ping.REJECT, Ping.NO_RESPONSE})
_TLS = ("SSL", "certificate", "GSSAPI")
"""What errors of the client side of TLS speak of: the server is up."""

_log = logging.getLogger(__name__)


async def reach(url: str, direct: str | None, timer: Clock, patience: timedelta) -> bool:
    """Wait until a database is up; return whether its sessions can be relied on.

    They cannot behind a pooler. A server that refuses connections, does not answer, has no
    address yet or is still starting is waited for as long as `patience`; what only a person
    can mend raises StoreOpenError at once.
    """
    if direct is not None:
        await _until_up(direct, timer, patience)
        await _until_up(url, timer, patience)
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
    waiting = _Waiting(described(url), timer.monotonic, patience.total_seconds())
    was_up = False
    while True:
        try:
            async with await connect(url) as connection:
                cursor = await connection.execute("SELECT pg_backend_pid()")
                # A pooler tells a number of its own, by which it knows whose query to cancel.
                return await cursor.fetchone() != (connection.info.backend_pid,)
        except psycopg.OperationalError as error:
            up = await _is_up(url, error)
            if up and was_up:  # it may have come up just after it refused, but not twice
                raise waiting.failure(text_of(error)) from error
            if not (up or waiting.may_go_on(text_of(error))):
                raise waiting.failure(text_of(error)) from error
            was_up = up
        except psycopg.Error as error:
            raise waiting.failure(text_of(error)) from error
        if not was_up:
            await timer.sleep(RETRY_SECONDS)


class _Waiting:
    """How long has been waited for a database, and how that was told."""

    def __init__(self, place: str, monotonic: Callable[[], float], seconds: float) -> None:
        self._place = place
        self._monotonic = monotonic
        self._seconds = seconds
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


async def _is_up(url: str, error: psycopg.OperationalError) -> bool:
    """Whether a server that did not accept a connection is up all the same."""
    if isinstance(error, psycopg.errors.ConnectionTimeout):
        return False
    if any(word in str(error) for word in _TLS):
        return True
    told = await asyncio.to_thread(PGconn.ping, parameters_of(url).encode())
    return told not in _NOT_UP
