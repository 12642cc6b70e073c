"""A database as an archive."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import psycopg

from outlast.domain.errors import StoreOpenError
from outlast.domain.operation import Operation
from outlast.ports import Clock
from outlast.stores.addresses import described
from outlast.stores.archive import Archive, Tables, uniqueness
from outlast.stores.postgres import statements
from outlast.stores.postgres.connection import parameters_of, translated_errors
from outlast.stores.postgres.schema import migrations, prepare
from outlast.stores.postgres.sessions import LOCK, USERS, listed
from outlast.stores.postgres.texts import digest_of, given, kept, operation_of, row_of
from outlast.stores.rows import Row

_LOOKS = 20
"""How often it is looked whether a database is used, a tenth of a second apart: who has just
stopped may take a moment to be gone."""


@contextmanager
def source(url: str) -> Iterator[Archive]:
    """Open a database to be read; it stays as it is, and nobody writes to its operations.

    Raises StoreOpenError if it has no operations or a process of Outlast has it open.
    """
    place = described(url)
    with _alone(url, place) as connection, connection.transaction(force_rollback=True):
        _check_schema(connection, place)
        connection.execute("LOCK TABLE outlast.operations IN SHARE MODE NOWAIT")
        yield Archive(_Tables(connection))


@contextmanager
def target(url: str, timer: Clock) -> Iterator[Archive]:
    """Open a database to be written to, whose tables are made if they are not there.

    `timer` is what pauses go by while somebody else makes them.
    Raises StoreOpenError if it cannot be a store, or a process of Outlast has it open.
    """
    place = described(url)
    with _alone(url, place):
        pass  # otherwise the next step would wait for who has it
    asyncio.run(prepare(url, timer))
    with _alone(url, place) as connection:
        yield Archive(_Tables(connection))


@contextmanager
def _alone(url: str, place: str) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection beside which no process of Outlast has one.

    One that starts meanwhile waits, as for another one that migrates, until this is closed.
    """
    try:
        connection = psycopg.connect(parameters_of(url), autocommit=True)
    except psycopg.Error as error:
        raise StoreOpenError(f"{place} cannot be opened: {str(error).strip()}") from error
    with connection, translated_errors(place):
        _refuse_pooler(connection, place)
        connection.execute("SET statement_timeout = 0")
        connection.execute("SET idle_in_transaction_session_timeout = 0")
        others: list[tuple[str]] = []
        for _ in range(_LOOKS):
            ((locked,),) = connection.execute("SELECT pg_try_advisory_lock(%s)", [LOCK])
            others = connection.execute(USERS, {"lock": LOCK}).fetchall()
            if locked and not others:
                break
            connection.execute("SELECT pg_sleep(0.1)")
        else:
            raise StoreOpenError(
                f"{place} is open in another process; stop the servers that use it first, and "
                f"have poolers close the connections that they keep: {listed(others)}"
            )
        yield connection


def _refuse_pooler(connection: psycopg.Connection[Any], place: str) -> None:
    """Refuse a connection that is not the database's own, before anything is left in its pool."""
    ((pid,),) = connection.execute("SELECT pg_backend_pid()")
    if pid != connection.info.backend_pid:
        raise StoreOpenError(
            f"{place} is behind a connection pooler, to whose next client a lock would be left; "
            "give the database's own address"
        )


def _check_schema(connection: psycopg.Connection[Any], place: str) -> None:
    """Refuse what is not there, or not as this version has it: a source is not changed."""
    ((table,),) = connection.execute("SELECT to_regclass('outlast.operations')")
    if table is None:
        raise StoreOpenError(f"{place} has no operations; name a database that has")
    ((schema,),) = connection.execute(statements.SETTING.encode(), ["schema"])
    if int(schema) != len(migrations()):
        raise StoreOpenError(
            f"{place} has the schema of another version; serve it with this one first,"
            " or use that one"
        )


class _Tables(Tables):
    unfit: ClassVar[tuple[type[Exception], ...]] = (
        psycopg.DataError,
        psycopg.errors.ProgramLimitExceeded,
    )

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def transaction(self) -> AbstractContextManager[object]:
        return self._connection.transaction()

    def count(self) -> int:
        ((count,),) = self._rows(statements.COUNT_ALL)
        return int(count)

    def secret(self) -> bytes:
        ((secret,),) = self._rows(statements.SETTING, ["secret"])
        return bytes(secret)

    def set_secret(self, secret: bytes) -> None:
        self._connection.execute(statements.SET_SETTING.encode(), [secret, "secret"])

    def sizes(self, after: int, limit: int) -> Sequence[tuple[int, int]]:
        return [
            (row_id, int(size)) for row_id, size in self._rows(statements.SIZES, [after, limit])
        ]

    def ids(self, names: Sequence[str]) -> Mapping[str, int]:
        return dict(self._rows(statements.SELECT_IDS, [names]))

    def operations(self, ids: Sequence[int]) -> Sequence[Row]:
        return self._rows(statements.SELECT_ARCHIVED, [ids])

    def understood(self, values: Row) -> Operation:
        return operation_of(values)

    def steps(self, ids: Sequence[int]) -> Sequence[Row]:
        rows = self._rows(statements.SELECT_STEPS, [ids])
        return [(row_id, given(key), *result) for row_id, key, *result in rows]

    def attempts(self, ids: Sequence[int]) -> Sequence[Row]:
        return self._rows(statements.SELECT_ATTEMPTS, [ids])

    def insert(self, operations: Sequence[Operation]) -> Mapping[str, int]:
        if not operations:
            return {}
        insert = statements.INSERT_OPERATIONS
        rows = [row_of(operation) for operation in operations]
        return {name: row_id for row_id, name in self._rows(insert.sql, insert.parameters(rows))}

    def insert_parts(
        self, requests: Sequence[Row], steps: Sequence[Row], attempts: Sequence[Row]
    ) -> None:
        for statement, rows in (
            (statements.INSERT_REQUESTS, requests),
            (statements.RECORD_STEPS, [(it, kept(key), *result) for it, key, *result in steps]),
            (statements.INSERT_ATTEMPTS, attempts),
        ):
            if rows:
                self._connection.execute(statement.sql.encode(), statement.parameters(rows))

    def holders(self, operation: Operation) -> Sequence[tuple[str, str]]:
        unique = dict(uniqueness(operation))
        unique["request_id"] = kept(unique["request_id"])
        unique["exclusive_digest"] = digest_of(kept(unique.pop("exclusive_key")))
        return self._rows(statements.HOLDERS, unique)

    def _rows(self, sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql.encode(), parameters).fetchall()
