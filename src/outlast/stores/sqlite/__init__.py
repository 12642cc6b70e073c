"""Operations in one SQLite file: the embedded, durable default."""

from outlast.stores.sqlite.store import SqliteStore as SqliteStore

__all__ = ["SqliteStore"]
