"""The PostgreSQL store."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Self

from outlast.domain import transitions
from outlast.domain.errors import StoreUnavailableError
from outlast.domain.listing import ListQuery
from outlast.domain.operation import Attempt, Lease, Operation, Progress
from outlast.domain.status import Payload
from outlast.domain.transitions import Outcome
from outlast.ports import (
    ChangeFeed,
    Claims,
    Clock,
    Inserted,
    OperationStore,
    QueueStats,
    Renewal,
)
from outlast.stores.lost_leases import LostBy
from outlast.stores.postgres import statements
from outlast.stores.postgres.commands import Expire, Insert, RecordStep, Update
from outlast.stores.postgres.connection import Database
from outlast.stores.postgres.feed import PostgresFeed
from outlast.stores.postgres.finishing import Finisher
from outlast.stores.postgres.held import HeldRecords
from outlast.stores.postgres.inserting import Inserter
from outlast.stores.postgres.reaching import reach
from outlast.stores.postgres.reading import PointReader
from outlast.stores.postgres.redriving import Redrive
from outlast.stores.postgres.schema import prepare
from outlast.stores.postgres.taking import Reap, Renew, TakeReady, renewal_of, renewal_parameters
from outlast.stores.postgres.texts import findable, given, kept, operation_of
from outlast.stores.postgres.writer import Writer
from outlast.stores.rows import attempt_from_row, from_micros, to_micros

CONNECTIONS = 8
"""How many connections are opened at the most, besides the two of the feed."""


class PostgresStore(OperationStore):
    """Operations in a PostgreSQL database, from version 15 on.

    Any number of processes on any machines may open the same database. Open it with
    `PostgresStore.open`, and use it on the event loop that opened it. The database's
    clock decides what is due and what has expired.
    """

    durability = "PostgreSQL, synchronous_commit: survives a crash of any process and machine"

    def __init__(self, database: Database, feed: PostgresFeed, secret: bytes) -> None:
        self._database = database
        self._feed = feed
        self._secret = secret
        held = HeldRecords()
        self._writer = Writer(database, held, feed.tell)
        self._inserter = Inserter(database, self._writer, feed.tell)
        self._finisher = Finisher(database, self._writer, held, feed.tell)
        self._reader = PointReader(self.get_many)
        self._closed = False

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: str,
        *,
        timer: Clock,
        clock: Clock | None = None,
        direct: str | None = None,
        patience: timedelta = timedelta(),
    ) -> AsyncIterator[Self]:
        """Open a database, whose tables are made if they are not there.

        `timer` is what pauses go by. A `clock` replaces the database's, for tests. If `url`
        leads to a pooler of transactions, `direct` is the database's own address, for what
        needs a session: hints and migrations. A database that is not up yet, or that
        another process migrates, is waited for as long as `patience`. Raises StoreOpenError.
        """
        prepared = await reach(url, direct, timer, patience)
        secret = await prepare(direct or url, timer, patience)
        database = Database(url, timer, clock, CONNECTIONS, prepared=prepared)
        await database.open()
        feed = PostgresFeed(url, timer, direct=direct, prepared=prepared)
        feed.start()
        store = cls(database, feed, secret)
        try:
            yield store
        finally:
            store._closed = True
            closing = asyncio.create_task(store._close())
            await asyncio.shield(closing)

    @property
    def clock(self) -> Clock:
        """The clock of the database."""
        return self._database.clock

    @property
    def changes(self) -> ChangeFeed:
        return self._feed

    @property
    def secret(self) -> bytes:
        return self._secret

    async def insert(
        self,
        operation: Operation,
        request: Payload,
        *,
        max_pending: int | None = None,
        max_pending_in_method: int | None = None,
    ) -> Inserted:
        return await self._inserter.insert(
            Insert(operation, request, max_pending, max_pending_in_method)
        )

    async def redrive(
        self,
        name: str,
        operation_id: str,
        *,
        again: bool = True,
        max_pending: int | None = None,
        max_pending_in_methods: Mapping[str, int] | None = None,
    ) -> Inserted:
        return await self._writer.run(
            Redrive(name, operation_id, again, max_pending, max_pending_in_methods or {})
        )

    async def get(self, name: str) -> Operation:
        return await self._reader.get(name)

    async def get_many(self, names: Collection[str]) -> Mapping[str, Operation]:
        rows = await self._read(statements.GET_MANY, [[name for name in names if findable(name)]])
        now = self._database.clock.now()
        operations = (operation_of(row) for row in rows)
        return {it.name: it for it in operations if transitions.visible(it, now)}

    async def list_page(self, query: ListQuery) -> Sequence[Operation]:
        conditions, after = query.conditions, query.after
        if conditions.states is not None and not conditions.states:
            return []
        sql = statements.list_page(
            parent=query.parent is not None,
            states=conditions.states is not None,
            method=conditions.method is not None,
            dead_letter=conditions.dead_letter is not None,
            principal=query.principal is not None,
            after=after is not None,
        )
        parameters = {
            "parent": query.parent,
            "now": to_micros(self._database.clock.now()),
            "limit": query.limit,
            "states": [state.value for state in conditions.states or ()],
            "method": conditions.method,
            "dead_letter": conditions.dead_letter,
            "principal": query.principal,
            "create_time": to_micros(after.create_time) if after else None,
            "name": after.name if after else None,
        }
        return [operation_of(row) for row in await self._read(sql, parameters)]

    async def claim(
        self,
        worker: str,
        slots: Mapping[str, int],
        limit: int,
        lease: timedelta,
        *,
        suspects: int = 1,
        distrust: timedelta = timedelta(),
        max_running: Mapping[str, int] | None = None,
    ) -> Claims:
        lost_by = LostBy(self.clock, distrust)
        return await self._writer.run(
            TakeReady(worker, slots, limit, lease, suspects, lost_by, max_running or {})
        )

    async def renew(self, leases: Collection[Lease], duration: timedelta) -> Renewal:
        return await self._writer.run(Renew(leases, duration))

    def renew_from_thread(self, leases: Collection[Lease], duration: timedelta) -> Renewal:
        if not leases:
            return Renewal()
        with self._database.transaction_of_thread() as (connection, now):
            parameters = renewal_parameters(leases, now + duration)
            rows = connection.execute(statements.RENEW.encode(), parameters).fetchall()
            held = connection.execute(statements.STILL_HELD.encode(), parameters).fetchall()
        return renewal_of(leases, rows, held)

    async def record_progress(
        self, lease: Lease, progress: Progress | None, metadata: Payload
    ) -> Operation:
        return await self._writer.run(
            Update(
                lease.name,
                lambda it, now: transitions.report(it, lease, progress, metadata, now),
                lease,
            )
        )

    async def record_step(self, lease: Lease, key: str, result: Payload) -> None:
        await self._writer.run(RecordStep(lease, key, result))

    async def steps(self, name: str) -> Mapping[str, Payload]:
        rows = await self._read(statements.STEPS, [kept(name)])
        return {given(key): Payload(type_url, value) for key, type_url, value in rows}

    async def finish(self, lease: Lease, outcome: Outcome) -> Operation:
        return await self._finisher.finish(lease, outcome)

    async def request_cancel(self, name: str) -> Operation:
        return await self._writer.run(Update(name, transitions.request_cancel))

    async def delete(self, name: str) -> None:
        await self._writer.run(Update(name, lambda operation, _: transitions.delete(operation)))

    async def expire(self, limit: int) -> int:
        return await self._writer.run(Expire(limit))

    async def reap(self, limit: int, *, distrust: timedelta = timedelta()) -> int:
        return await self._writer.run(Reap(limit, LostBy(self.clock, distrust)))

    async def attempts(self, name: str) -> Sequence[Attempt]:
        operation = await self.get(name)
        rows = await self._read(statements.ATTEMPTS, [name])
        return transitions.attempts([attempt_from_row(row) for row in rows], operation)

    async def stats(self) -> Sequence[QueueStats]:
        now = self._database.clock.now()
        found: dict[str, QueueStats] = {}
        rows = await self._read(statements.STATS, {"now": to_micros(now)})
        for method, ready, delayed, running, dead, oldest in rows:
            known = found.get(method, QueueStats(method))
            since = from_micros(oldest)
            found[method] = QueueStats(
                method,
                known.ready + ready,
                known.delayed + delayed,
                known.running + running,
                known.dead_letters + dead,
                known.oldest_ready_age if since is None else now - since,
            )
        return [found[method] for method in sorted(found)]

    async def _read(self, sql: str, parameters: Any) -> Sequence[tuple[Any, ...]]:
        if self._closed:
            raise StoreUnavailableError("the operation store is closed")
        async with self._database.reading() as connection:
            cursor = await connection.execute(sql.encode(), parameters, binary=True)
            return await cursor.fetchall()

    async def _close(self) -> None:
        await self._inserter.stop()
        await self._finisher.stop()
        await self._writer.stop()
        await self._reader.stop()
        await self._feed.stop()
        await self._database.close()
