"""Connections to the file: how they are opened, and what its errors mean."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from outlast.domain.errors import OutlastError, StoreOpenError, StoreUnavailableError

APPLICATION_ID = 0x4F75744C
"""Marks a file as Outlast's (`PRAGMA application_id`)."""

BUSY_TIMEOUT_SECONDS = 2.0
"""How long the writer waits for another process's transaction before it gives up."""

_MINIMUM_SQLITE = (3, 38, 0)


def connect(
    path: Path, *, busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS
) -> sqlite3.Connection:
    """Open a connection that commits only when told to, and makes commits durable."""
    connection = sqlite3.connect(
        path,
        timeout=busy_timeout_seconds,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=512,
    )
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection


def prepare_file(path: Path) -> bytes:
    """Make sure that the file is a store of the current schema; return its secret.

    Raises StoreOpenError, with the file untouched, if it cannot be one.
    """
    if sqlite3.sqlite_version_info < _MINIMUM_SQLITE:
        raise StoreOpenError(f"SQLite {sqlite3.sqlite_version} is too old; 3.38 is needed")
    if path.is_dir():
        raise StoreOpenError(f"{path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise StoreOpenError(f"the folder {path.parent} does not exist; create it first")
    try:
        connection = connect(path)
        try:
            _check_owner(connection, path)
            connection.execute("PRAGMA journal_mode = WAL")
            _migrate(connection, path)
            (secret,) = connection.execute(
                "SELECT value FROM settings WHERE key = 'secret'"
            ).fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StoreOpenError(f"cannot open {path}: {_explain(error)}") from error
    return bytes(secret)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn what SQLite raises when it cannot work now into StoreUnavailableError.

    Errors in a statement or its values are not the store's state: they pass.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        if not is_outage(error):
            raise
        raise StoreUnavailableError(
            f"the operation store cannot answer: {_explain(error)}"
        ) from error


def is_outage(error: sqlite3.Error) -> bool:
    """Whether an error is about the file and its disk and not about one statement."""
    return _primary_code(error) in _OUTAGES


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection is in the way."""
    return _primary_code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


_OUTAGES = {
    sqlite3.SQLITE_BUSY: "it is locked by another process",
    sqlite3.SQLITE_LOCKED: "it is locked by another connection",
    sqlite3.SQLITE_READONLY: "it is read-only; check the file's and its folder's permissions",
    sqlite3.SQLITE_IOERR: "reading or writing failed; check the disk",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; restore it from a backup",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened; check its path and permissions",
    sqlite3.SQLITE_NOTADB: "it is not an SQLite database",
    sqlite3.SQLITE_NOMEM: "memory ran out",
    sqlite3.SQLITE_INTERRUPT: "it was interrupted",
}


def _primary_code(error: sqlite3.Error) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _explain(error: sqlite3.Error) -> str:
    code = _primary_code(error)
    return _OUTAGES.get(code, str(error)) if code is not None else str(error)


def _check_owner(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a database that belongs to something else, before anything is written."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application_id != APPLICATION_ID and (application_id != 0 or tables):
        raise StoreOpenError(f"{path} is an SQLite database of another program; name another file")
    _check_version(connection, path)


def _check_version(connection: sqlite3.Connection, path: Path) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    newest = len(_migrations())
    if version > newest:
        raise StoreOpenError(
            f"{path} has schema {version}, made by a newer Outlast; this one knows "
            f"schema {newest}. Upgrade Outlast, or name another file"
        )
    return int(version)


def _migrations() -> list[str]:
    """Return the migrations in the order of their numbers."""
    folder = files("outlast.stores.sqlite") / "migrations"
    scripts = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".sql")), key=str)
    return [script.read_text("utf-8") for script in scripts]


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the schema up to date, all of it or nothing, one process at a time."""
    scripts = _migrations()
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _check_version(connection, path)
        for script in scripts[version:]:
            for statement in _statements(script):
                connection.execute(statement)
        if version < len(scripts):
            connection.execute(f"PRAGMA user_version = {len(scripts)}")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("COMMIT")
    except (sqlite3.Error, OutlastError):
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _statements(script: str) -> Iterator[str]:
    """Split a script; `executescript` would commit half-way."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
