"""How the tables of the PostgreSQL store come to be, whatever the database is like."""

import asyncio
from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest

from outlast.domain.errors import StoreOpenError
from outlast.engine.clock import SystemClock
from outlast.stores.postgres import PostgresStore
from tests.postgresql import PostgresServer

TIMER = SystemClock()


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    """Return the URL of an empty database."""
    url = postgres.new_database()
    yield url
    postgres.drop(url)


async def opened(url: str) -> bytes:
    """Open a store; return its secret."""
    async with PostgresStore.open(url, timer=TIMER) as store:
        await store.stats()
        return store.secret


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


async def test_nodes_that_start_together_see_what_the_first_one_made(url):
    name = urlsplit(url).path.removeprefix("/")
    execute(url, f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
    secrets = await asyncio.gather(*(opened(url) for _ in range(8)))
    assert len(set(secrets)) == 1


async def test_a_role_that_owns_the_schema_needs_no_right_to_make_another(url, postgres):
    name = urlsplit(url).path.removeprefix("/")
    postgres.execute("DROP ROLE IF EXISTS keeper")
    postgres.execute("CREATE ROLE keeper LOGIN")
    execute(
        url,
        f"REVOKE CREATE ON DATABASE {name} FROM PUBLIC",
        "CREATE SCHEMA outlast AUTHORIZATION keeper",
    )
    await opened(url.replace("//postgres@", "//keeper@"))
    execute(url, "DROP OWNED BY keeper CASCADE")
    postgres.execute("DROP ROLE keeper")


@pytest.mark.parametrize("key", ["schema", "oldest_reader"])
async def test_a_setting_that_is_damaged_is_told(url, key):
    await opened(url)
    execute(
        url,
        f"DELETE FROM outlast.settings WHERE key = '{key}'",
        f"INSERT INTO outlast.settings VALUES ('{key}', 'abc')",
    )
    with pytest.raises(StoreOpenError, match=f"is damaged: {key} in outlast.settings"):
        await opened(url)
