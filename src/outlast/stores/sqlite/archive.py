"""A file as an archive."""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from outlast.domain.operation import Operation
from outlast.stores.archive import Archive, Tables, uniqueness
from outlast.stores.rows import Row, all_values
from outlast.stores.sqlite import statements
from outlast.stores.sqlite.connection import open_source, open_target, translated_errors
from outlast.stores.sqlite.generation import Generation


@contextmanager
def source(path: str) -> Iterator[Archive]:
    """Open a file to be read; it stays as it is.

    Raises StoreOpenError if it has no operations, or if any other process has it open.
    """
    connection = open_source(Path(path))
    with closing(connection), translated_errors():
        yield Archive(_Tables(connection))


@contextmanager
def target(path: str) -> Iterator[Archive]:
    """Open a file to be written to, made if it is not there.

    Raises StoreOpenError if it cannot be a store, or if any other process has it open.
    """
    connection, generation = open_target(Path(path))
    with closing(generation), closing(connection), translated_errors():
        yield Archive(_Tables(connection, generation))


class _Tables(Tables):
    def __init__(
        self, connection: sqlite3.Connection, generation: Generation | None = None
    ) -> None:
        self._connection = connection
        self._generation = generation

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def count(self) -> int:
        ((count,),) = self._connection.execute(statements.COUNT_ALL)
        return int(count)

    def secret(self) -> bytes:
        ((secret,),) = self._connection.execute(statements.SETTING, ["secret"])
        return bytes(secret)

    def set_secret(self, secret: bytes) -> None:
        self._connection.execute(statements.SET_SETTING, [secret, "secret"])

    def sizes(self, after: int, limit: int) -> Sequence[tuple[int, int]]:
        return self._connection.execute(statements.SIZES, [after, limit]).fetchall()

    def ids(self, names: Sequence[str]) -> Mapping[str, int]:
        return {row[0]: row[1] for row in self._select(statements.select_ids, names)}

    def operations(self, ids: Sequence[int]) -> Sequence[Row]:
        return self._select(statements.select_archived, ids)

    def steps(self, ids: Sequence[int]) -> Sequence[Row]:
        return self._select(statements.select_steps, ids)

    def attempts(self, ids: Sequence[int]) -> Sequence[Row]:
        return self._select(statements.select_attempts, ids)

    def insert(self, operations: Sequence[Operation]) -> Mapping[str, int]:
        for operation in operations:
            if self._generation is not None:
                self._generation.reach(operation.update_time)
        rows = [all_values(operation) for operation in operations]
        return {name: row_id for row_id, name in self._insert(statements.insert_operations, rows)}

    def insert_parts(
        self, requests: Sequence[Row], steps: Sequence[Row], attempts: Sequence[Row]
    ) -> None:
        self._insert(statements.insert_requests, requests)
        self._connection.executemany(statements.RECORD_STEP, steps)
        self._insert(statements.insert_attempts, attempts)

    def holders(self, operation: Operation) -> Sequence[tuple[str, str]]:
        return self._connection.execute(statements.HOLDERS, uniqueness(operation)).fetchall()

    def _select(self, sql: Callable[[int], str], keys: Sequence[int] | Sequence[str]) -> list[Row]:
        rows: list[Row] = []
        for batch in statements.batches(keys):
            rows += self._connection.execute(sql(len(batch)), batch)
        return rows

    def _insert(self, sql: Callable[[int], str], rows: Sequence[Row]) -> list[Row]:
        returned: list[Row] = []
        for batch in statements.batches(rows):
            returned += self._connection.execute(sql(len(batch)), statements.flat(batch))
        return returned
