"""Operations in a PostgreSQL database, which many machines may share."""

from outlast.stores.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
