"""Connections to the file: how they are opened, and what its errors mean."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from stat import S_ISREG
from typing import Self

from outlast.domain.errors import OutlastError, StoreOpenError, StoreUnavailableError
from outlast.stores.sqlite.generation import Generation

APPLICATION_ID = 0x4F75744C
"""Marks a file as Outlast's (`PRAGMA application_id`)."""

BUSY_TIMEOUT_SECONDS = 2.0
"""How long the writer waits for another process's transaction before it gives up."""

GENERATION_SUFFIX = "-generation"
"""Ends the name of the file beside the store, as SQLite's own end in -wal and -shm."""

_MINIMUM_SQLITE = (3, 38, 0)
_WAL_ATTEMPTS = 100
_HEADER_BYTES = 100
"""Every SQLite file is longer, unless it is empty; SQLite overwrites one of a single byte."""


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
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA temp_store = MEMORY")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@dataclass(frozen=True, slots=True)
class StoreFile:
    """An open store: its secret, and its connections, each for one thread at a time."""

    secret: bytes
    writer: sqlite3.Connection
    reader: sqlite3.Connection
    point_reader: sqlite3.Connection
    """For reads where a wait is not allowed: hence without a busy timeout."""
    generation: Generation
    """Moves with every commit of a process that has the file open as a store."""
    schema: int
    """Which schema the file had when it was opened, by its number."""
    data_version: int
    """What `data_version(writer)` was when the file was opened."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a file, made if it is not there, and bring its schema up to date.

        Raises StoreOpenError, with the file untouched, if it cannot be a store.
        """
        if sqlite3.sqlite_version_info < _MINIMUM_SQLITE:
            raise StoreOpenError(f"SQLite {sqlite3.sqlite_version} is too old; 3.38 is needed")
        # SQLite gives some relative paths, `:memory:` and `file:…`, a meaning of its own.
        path = path.absolute()
        _check_path(path)
        try:
            with ExitStack() as opened:
                writer = opened.enter_context(closing(connect(path)))
                schema, secret = _migrate(writer, path)
                _use_wal(writer, path)
                reader = opened.enter_context(closing(connect(path)))
                point_reader = opened.enter_context(closing(connect(path, busy_timeout_seconds=0)))
                version = data_version(writer)
                generation = _generation_of(path)
                opened.pop_all()
        except sqlite3.Error as error:
            raise StoreOpenError(f"cannot open {path}: {_explain(error)}") from error
        except OSError as error:
            raise StoreOpenError(f"cannot open {error.filename}: {error.strerror}") from error
        return cls(secret, writer, reader, point_reader, generation, schema, version)

    def close(self) -> None:
        """Close the connections; the last one of all removes what the WAL mode needed."""
        self.point_reader.close()
        self.reader.close()
        self.writer.close()
        self.generation.close()


def open_source(path: Path) -> sqlite3.Connection:
    """Open a file that nobody else has open, to be read.

    Until the connection is closed nobody else can use the file, and then it is as it was: a
    schema that is older is brought up to date in a transaction that is never committed.
    """
    path = path.absolute()
    if not path.exists():
        raise StoreOpenError(f"there is no file {path}; name one that has operations")
    with _opened_alone(path) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        version = _check_schema(connection, path)
        if not version:
            raise StoreOpenError(f"{path} is empty; name a file that has operations")
        _apply(connection, _migrations()[version:])
        _read_secret(connection, path)
        return connection


def open_target(path: Path) -> tuple[sqlite3.Connection, Generation]:
    """Open a file that nobody else has open, made if it is not there, to be written to.

    Until the connection is closed nobody else can use it.
    """
    path = path.absolute()
    with _opened_alone(path) as connection:
        _migrate(connection, path)
        _use_wal(connection, path)
        return connection, _generation_of(path)


@contextmanager
def _opened_alone(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection beside which there is no other one; close it if the block raises.

    Who has a file in WAL mode open keeps a lock on it that this connection, by its mode, needs
    for itself: idle servers and such that are stopped are noticed as well.
    """
    _check_path(path)
    try:
        with ExitStack() as opened:
            connection = opened.enter_context(closing(connect(path)))
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            yield connection
            opened.pop_all()
    except sqlite3.Error as error:
        if is_busy(error):
            raise StoreOpenError(
                f"{path} is open in another process; stop the server that uses it first"
            ) from error
        raise StoreOpenError(f"cannot open {path}: {_explain(error)}") from error
    except OSError as error:
        raise StoreOpenError(f"cannot open {error.filename}: {error.strerror}") from error


def data_version(connection: sqlite3.Connection) -> int:
    """Return a number that changes when another connection has written to the file."""
    (version,) = connection.execute("PRAGMA data_version").fetchone()
    return int(version)


def check_unmigrated(connection: sqlite3.Connection, known: int) -> None:
    """Raise StoreUnavailableError if the file no longer has the schema that it was opened with.

    A schema never comes back, so what was read before the call was of the known one.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != known:
        raise StoreUnavailableError(
            "the file was migrated by a newer version of Outlast; restart this server"
        )


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
    return _primary_code(error) in _OUTAGES or is_damage(error)


def is_damage(error: BaseException | None) -> bool:
    """Whether a part of the file is damaged; other parts may still be of use.

    What SQLite itself does not notice, such as text that cannot be decoded, has no code.
    """
    if not isinstance(error, sqlite3.DatabaseError):
        return False
    undecodable = type(error) in {sqlite3.DatabaseError, sqlite3.OperationalError}
    return _primary_code(error) in ({None, _DAMAGED} if undecodable else {_DAMAGED})


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection is in the way."""
    return _primary_code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


_DAMAGED = sqlite3.SQLITE_CORRUPT
_OUTAGES = {
    sqlite3.SQLITE_PERM: "access is denied; check the permissions of the file and its folder",
    sqlite3.SQLITE_BUSY: "another process keeps it locked; end that process, or try again later",
    sqlite3.SQLITE_LOCKED: "another connection keeps it locked; try again later",
    sqlite3.SQLITE_READONLY: "it is read-only; check the permissions of the file and its folder",
    sqlite3.SQLITE_IOERR: "reading or writing failed; check the disk, and how much room it has",
    _DAMAGED: "the file is damaged; restore it from a backup",
    sqlite3.SQLITE_FULL: "the disk is full; make room",
    sqlite3.SQLITE_CANTOPEN: (
        "it cannot be opened; check its path, and the permissions of the file and its folder"
    ),
    sqlite3.SQLITE_PROTOCOL: "too many processes use it at once; try again later",
    sqlite3.SQLITE_NOTADB: "it is not an SQLite database; name another file",
    sqlite3.SQLITE_NOMEM: "memory ran out",
    sqlite3.SQLITE_INTERRUPT: "it was interrupted; try again",
}


def _primary_code(error: sqlite3.Error) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _explain(error: sqlite3.Error) -> str:
    if is_damage(error):
        return _OUTAGES[_DAMAGED]
    return _OUTAGES.get(
        _primary_code(error) or 0, f"{error}; the file may be damaged: restore it from a backup"
    )


def _check_path(path: Path) -> None:
    """Refuse what is no place for a file, and what SQLite would take for an empty one.

    The file is not opened: closing it again would release the locks that other
    connections of this process hold on it.
    """
    try:
        if path.is_dir():
            raise StoreOpenError(f"{path} is a folder; name a file in it")
        if not path.parent.is_dir():
            raise StoreOpenError(f"the folder {path.parent} does not exist; create it first")
        status = path.stat()
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise StoreOpenError(f"cannot open {path}: {error}; name another file") from error
    if not S_ISREG(status.st_mode):
        raise StoreOpenError(f"{path} is not a regular file; name another one")
    if 0 < status.st_size < _HEADER_BYTES:
        raise StoreOpenError(f"{path} is not an SQLite database; name another file")


def _check_schema(connection: sqlite3.Connection, path: Path) -> int:
    """Return which schema a file has, 0 if none; refuse one that is not for this program."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application_id != APPLICATION_ID and (application_id or version or tables):
        raise StoreOpenError(f"{path} is an SQLite database of another program; name another file")
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


def _migrate(connection: sqlite3.Connection, path: Path) -> tuple[int, bytes]:
    """Bring the schema up to date, all of it or nothing, one process at a time.

    Returns which schema that is, and the store's secret.
    """
    scripts = _migrations()
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _check_schema(connection, path)
        # BEGIN IMMEDIATE takes a file that is read-only; a write, which is not kept, does not.
        connection.execute(f"PRAGMA user_version = {version}")
        _apply(connection, scripts[version:])
        if version < len(scripts):
            connection.execute(f"PRAGMA user_version = {len(scripts)}")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            with closing(_generation_of(path)) as generation:
                generation.move()  # servers that run are to see that the schema is another
        secret = _read_secret(connection, path)
        connection.execute("COMMIT" if version < len(scripts) else "ROLLBACK")
    except (sqlite3.Error, OutlastError, OSError):
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return len(scripts), secret


def _apply(connection: sqlite3.Connection, scripts: Sequence[str]) -> None:
    for script in scripts:
        for statement in _statements(script):
            connection.execute(statement)


def _generation_of(path: Path) -> Generation:
    """Open what lies beside a file, which is the same one by whatever link it is opened."""
    return Generation(Path(os.path.realpath(path) + GENERATION_SUFFIX))


def _read_secret(connection: sqlite3.Connection, path: Path) -> bytes:
    row = connection.execute("SELECT value FROM settings WHERE key = 'secret'").fetchone()
    if row is None:
        raise StoreOpenError(f"{path} is damaged: its secret is gone; restore it from a backup")
    return bytes(row[0])


def _use_wal(connection: sqlite3.Connection, path: Path) -> None:
    """Let readers and the writer work at the same time; the file remembers it."""
    for _ in range(_WAL_ATTEMPTS):
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            break
        except sqlite3.Error as error:
            if not is_busy(error):
                raise
        # Another process opens the same new file. SQLite does not wait for it in the
        # statement above; in this one it does.
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    else:
        raise StoreOpenError(f"too many processes open {path} at once; try again")
    if mode != "wal":
        raise StoreOpenError(
            f"the file system of {path} cannot share memory between processes, which SQLite's "
            "WAL mode needs; name a file on a local disk"
        )


def _statements(script: str) -> Iterator[str]:
    """Split a script; `executescript` would commit half-way."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    yield statement  # comments, or a statement without its semicolon
