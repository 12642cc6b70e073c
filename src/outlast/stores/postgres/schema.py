"""The tables, and how they come to be what this version needs."""

import asyncio
import secrets
from collections.abc import Sequence
from datetime import timedelta
from importlib.resources import files

import psycopg

from outlast.domain.errors import StoreOpenError
from outlast.ports import Clock
from outlast.stores.addresses import described
from outlast.stores.postgres.connection import MINIMUM_VERSION, connect, text_of
from outlast.stores.postgres.reaching import Waiting
from outlast.stores.postgres.sessions import HOLDERS, LOCK, listed
from outlast.stores.postgres.transaction import Connection

LOCK_RETRY_SECONDS = 0.25
LEAST_PATIENCE = timedelta(seconds=10)
"""How long others that make the tables are waited for at the least: that takes a moment."""
_SETTINGS = """
CREATE TABLE IF NOT EXISTS outlast.settings (key text PRIMARY KEY, value bytea NOT NULL)
"""
_SETTING = "SELECT value FROM outlast.settings WHERE key = %s"
_SET = """
INSERT INTO outlast.settings VALUES (%s, %s) ON CONFLICT (key) DO UPDATE SET value = excluded.value
"""


async def prepare(url: str, timer: Clock, patience: timedelta = LEAST_PATIENCE) -> bytes:
    """Bring the schema up to date, all of it or nothing; return the store's secret.

    Several nodes may do so at once: each waits for the others, and for who carries the
    operations elsewhere, as long as `patience`. A schema that is newer is left as it is:
    migrations keep what the version before them needs. Raises StoreOpenError.
    """
    place = described(url)
    waiting = Waiting(place, timer.monotonic, max(patience, LEAST_PATIENCE))
    scripts = await asyncio.to_thread(migrations)
    try:
        async with await connect(url) as connection:
            version = connection.info.server_version
            if version < MINIMUM_VERSION:
                raise StoreOpenError(
                    f"{place} is PostgreSQL {version // 10000}; 15 or newer is needed"
                )
            # Whatever the database's default: who waited for others has to see what they did.
            await connection.set_isolation_level(psycopg.IsolationLevel.READ_COMMITTED)
            while True:
                async with connection.transaction():
                    if await _try_lock(connection):
                        return await _migrate(connection, scripts, place)
                    cursor = await connection.execute(HOLDERS, {"lock": LOCK})
                    holders = listed(await cursor.fetchall())
                reason = f"its tables are locked for a migration by {holders}"
                if not waiting.may_go_on(reason):
                    raise waiting.failure(reason)
                await timer.sleep(LOCK_RETRY_SECONDS)
    except psycopg.Error as error:
        raise StoreOpenError(f"{place} cannot be used: {text_of(error)}") from error


async def _try_lock(connection: Connection) -> bool:
    """Take the lock until the end of the transaction, unless somebody else has it."""
    cursor = await connection.execute("SELECT pg_try_advisory_xact_lock(%s)", [LOCK])
    return await cursor.fetchone() == (True,)


async def _migrate(connection: Connection, scripts: Sequence[str], place: str) -> bytes:
    cursor = await connection.execute("SELECT to_regnamespace('outlast') IS NOT NULL")
    if await cursor.fetchone() != (True,):  # a role may own it that must not make others
        await connection.execute("CREATE SCHEMA outlast")
    await connection.execute(_SETTINGS)
    version = await _number(connection, "schema", place)
    for script in scripts[version:]:
        await connection.execute(script.encode())
    if version < len(scripts):
        await connection.execute(_SET, ["schema", str(len(scripts)).encode()])
    if await _number(connection, "oldest_reader", place) > len(scripts):
        raise StoreOpenError(
            f"{place} was migrated by a version of Outlast that this one cannot work beside;"
            " install that one"
        )
    if (secret := await _setting(connection, "secret")) is None:
        secret = secrets.token_bytes(32)
        await connection.execute(_SET, ["secret", secret])
    return secret


async def _number(connection: Connection, key: str, place: str) -> int:
    value = await _setting(connection, key) or b"0"
    if not value.isdigit():
        raise StoreOpenError(f"{place} is damaged: {key} in outlast.settings is not a number")
    return int(value)


async def _setting(connection: Connection, key: str) -> bytes | None:
    row = await (await connection.execute(_SETTING, [key])).fetchone()
    return None if row is None else bytes(row[0])


def migrations() -> list[str]:
    """Return the migrations in the order of their numbers."""
    folder = files("outlast.stores.postgres") / "migrations"
    scripts = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".sql")), key=str)
    return [script.read_text("utf-8") for script in scripts]
