"""The store: commands for the writer thread, and reads."""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self, TypeVar

from outlast.domain import transitions
from outlast.domain.errors import OperationNotFoundError, StoreUnavailableError
from outlast.domain.listing import ListQuery
from outlast.domain.operation import Attempt, Lease, Operation, Progress, State
from outlast.domain.status import Payload
from outlast.domain.transitions import Outcome
from outlast.ports import (
    Change,
    ChangeFeed,
    Changes,
    Claims,
    Clock,
    Inserted,
    OperationStore,
    QueueStats,
    Renewal,
)
from outlast.stores.feed import LocalFeed
from outlast.stores.lost_leases import LostBy
from outlast.stores.rows import (
    attempt_from_row,
    from_micros,
    operation_from_row,
    to_micros,
)
from outlast.stores.sqlite import statements
from outlast.stores.sqlite.cache import RecordCache
from outlast.stores.sqlite.commands import (
    CatchUp,
    Expire,
    Insert,
    RecordStep,
    Renew,
    Update,
)
from outlast.stores.sqlite.connection import (
    StoreFile,
    check_unmigrated,
    is_busy,
    translated_errors,
)
from outlast.stores.sqlite.recent import Recent
from outlast.stores.sqlite.redriving import Redrive
from outlast.stores.sqlite.taking import Reap, TakeReady
from outlast.stores.sqlite.transaction import Backlog, Transaction
from outlast.stores.sqlite.writer import Writer, Written

T = TypeVar("T")

OTHERS_POLL_SECONDS = 0.025
"""How often the store looks into memory for what others have written.

It does so if there are others, and somebody who listens; else when it catches up.
"""

CATCH_UP_SECONDS = 0.25
"""How often it asks the file, which tells of programs too that share no memory with it."""

_COMPANY_TURNS = 40
"""How often it has to catch up without having met another process to think that it is alone."""

_log = logging.getLogger(__name__)


class SqliteStore(OperationStore):
    """Operations in an SQLite file in WAL mode.

    Several processes of one machine may open the same file. Open it with
    `SqliteStore.open`, and use it on the event loop that opened it.
    """

    durability = "SQLite, WAL, synchronous=FULL: survives a crash of the process and of the machine"

    def __init__(self, file: StoreFile, clock: Clock) -> None:
        self._file = file
        self._clock = clock
        self._feed = LocalFeed()
        self._cache = RecordCache()
        self._reader_thread = ThreadPoolExecutor(1, thread_name_prefix="outlast-sqlite-reader")
        backlog, recent = Backlog(), Recent()
        self._writer = Writer(
            file.writer,
            lambda: Transaction(file.writer, clock.now(), backlog, recent),
            file.generation,
            file.schema,
            self._publish,
        )
        self._closed = False
        self._others_wrote = False

    @classmethod
    @asynccontextmanager
    async def open(cls, path: str | Path, *, clock: Clock) -> AsyncIterator[Self]:
        """Open a file, made if it is not there; raise StoreOpenError if it cannot be used."""
        file = await asyncio.to_thread(StoreFile.open, Path(path))
        store = cls(file, clock)
        watcher = asyncio.create_task(store._watch_others(), name="outlast-sqlite-watcher")
        try:
            yield store
        finally:
            store._closed = True
            watcher.cancel()
            store._writer.stop()
            # In a thread of its own: the loop's may be taken by work that does not end.
            # Shielded, because a cancellation would call it off before it has begun.
            closer = ThreadPoolExecutor(1, thread_name_prefix="outlast-store-closer")
            closing = asyncio.get_running_loop().run_in_executor(closer, store._close)
            closer.shutdown(wait=False)
            await asyncio.shield(closing)

    @property
    def changes(self) -> ChangeFeed:
        return self._feed

    @property
    def secret(self) -> bytes:
        return self._file.secret

    @property
    def latest_time(self) -> datetime | None:
        return self._file.generation.latest_time()

    async def insert(
        self,
        operation: Operation,
        request: Payload,
        *,
        max_pending: int | None = None,
        max_pending_in_method: int | None = None,
    ) -> Inserted:
        return await self._writer.run(
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

    def peek(self, name: str) -> Operation | None:
        if self._closed or self._file.generation.read() != self._cache.generation:
            return None
        operation = self._cache.get(name)
        if operation is None or not transitions.visible(operation, self._clock.now()):
            return None
        return operation

    async def get(self, name: str) -> Operation:
        operation = self._cache.get(name)
        if operation is not None:
            version = await self._point_read(statements.VERSION, name)
            if version != (operation.revision, to_micros(operation.ready_time)):
                operation = None
        if operation is None:
            row = await self._point_read(statements.POINT_READ, name)
            if row is None:
                self._cache.discard(name)
                raise OperationNotFoundError(name)
            operation = operation_from_row(row)
            self._cache.put(operation)
        if not transitions.visible(operation, self._clock.now()):
            raise OperationNotFoundError(name)
        return operation

    async def get_many(self, names: Collection[str]) -> Mapping[str, Operation]:
        now = self._clock.now()

        def read() -> Mapping[str, Operation]:
            found: dict[str, Operation] = {}
            for batch in statements.batches(list(names)):
                sql = statements.select_by_name(len(batch))
                for row in self._file.reader.execute(sql, batch):
                    operation = operation_from_row(row[1:])
                    if transitions.visible(operation, now):
                        found[operation.name] = operation
            return found

        return await self._read(read)

    async def list_page(self, query: ListQuery) -> Sequence[Operation]:
        conditions, after = query.conditions, query.after
        states = sorted(conditions.states) if conditions.states is not None else []
        if conditions.states is not None and not states:
            return []
        sql = statements.list_page(
            parent=query.parent is not None,
            states=len(states),
            method=conditions.method is not None,
            dead_letter=conditions.dead_letter is not None,
            principal=query.principal is not None,
            after=after is not None,
        )
        parameters = {
            "parent": query.parent,
            "now": to_micros(self._clock.now()),
            "limit": query.limit,
            "method": conditions.method,
            "dead_letter": conditions.dead_letter,
            "principal": query.principal,
            "create_time": to_micros(after.create_time) if after else None,
            "name": after.name if after else None,
            **{f"state{number}": state.value for number, state in enumerate(states)},
        }
        return await self._read(
            lambda: [operation_from_row(row) for row in self._file.reader.execute(sql, parameters)]
        )

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
        lost_by = LostBy(self._clock, distrust)
        return await self._writer.run(
            TakeReady(worker, slots, limit, lease, suspects, lost_by, max_running or {})
        )

    async def renew(self, leases: Collection[Lease], duration: timedelta) -> Renewal:
        return await self._writer.run(Renew(leases, duration))

    def renew_from_thread(self, leases: Collection[Lease], duration: timedelta) -> Renewal:
        return self._writer.run_from_thread(Renew(leases, duration))

    async def record_progress(
        self, lease: Lease, progress: Progress | None, metadata: Payload
    ) -> Operation:
        def change(operation: Operation, now: datetime) -> Operation:
            return transitions.report(operation, lease, progress, metadata, now)

        return await self._writer.run(Update(lease.name, change, lease))

    async def record_step(self, lease: Lease, key: str, result: Payload) -> None:
        await self._writer.run(RecordStep(lease, key, result))

    async def steps(self, name: str) -> Mapping[str, Payload]:
        return await self._read(
            lambda: {
                key: Payload(type_url, value)
                for key, type_url, value in self._file.reader.execute(statements.STEPS, [name])
            }
        )

    async def finish(self, lease: Lease, outcome: Outcome) -> Operation:
        def change(operation: Operation, now: datetime) -> Operation:
            return transitions.finish(operation, lease, outcome, now)

        return await self._writer.run(Update(lease.name, change, lease))

    async def request_cancel(self, name: str) -> Operation:
        return await self._writer.run(Update(name, transitions.request_cancel))

    async def delete(self, name: str) -> None:
        await self._writer.run(Update(name, lambda operation, _: transitions.delete(operation)))

    async def expire(self, limit: int) -> int:
        forgotten = await self._writer.run(Expire(limit))
        if forgotten:
            self._cache.clear()  # a clock that goes back must not bring them back
        return forgotten

    async def reap(self, limit: int, *, distrust: timedelta = timedelta()) -> int:
        return await self._writer.run(Reap(limit, LostBy(self._clock, distrust)))

    async def attempts(self, name: str) -> Sequence[Attempt]:
        operation = await self.get(name)
        past = await self._read(
            lambda: [
                attempt_from_row(row)
                for row in self._file.reader.execute(statements.ATTEMPTS, [name])
            ]
        )
        return transitions.attempts(past, operation)

    async def stats(self) -> Sequence[QueueStats]:
        now = self._clock.now()

        def read() -> Sequence[QueueStats]:
            found: dict[str, QueueStats] = {}
            for method, ready, delayed, running, dead, oldest in self._file.reader.execute(
                statements.STATS, {"now": to_micros(now)}
            ):
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

        return await self._read(read)

    def _publish(self, written: Written) -> None:
        """Keep what was just written, since it is what is asked for next, and tell of it."""
        if written.others_wrote:
            self._others_wrote = True
            self._cache.clear()
        for change in written.changes:
            if change.record is not None:
                self._cache.put(change.record)
        self._cache.generation = written.generation
        if written.changes:
            self._feed.publish(written.changes)

    async def _point_read(self, sql: str, name: str) -> tuple[object, ...] | None:
        """Read one row on the loop, or in the reader thread if another process is in the way."""
        self._check_open()
        try:
            with self._schema_known(self._file.point_reader):
                row: tuple[object, ...] | None = self._file.point_reader.execute(
                    sql, (name,)
                ).fetchone()
        except sqlite3.Error as error:
            if not is_busy(error):
                with translated_errors():
                    raise
            return await self._read(lambda: self._file.reader.execute(sql, (name,)).fetchone())
        return row

    async def _read(self, read: Callable[[], T]) -> T:
        self._check_open()

        def run() -> T:
            with translated_errors(), self._schema_known(self._file.reader):
                return read()

        return await asyncio.get_running_loop().run_in_executor(self._reader_thread, run)

    @contextmanager
    def _schema_known(self, connection: sqlite3.Connection) -> Iterator[None]:
        """Refuse what the block has read, and its error, if the schema is another meanwhile."""
        try:
            yield
        finally:
            if self._file.generation.read() != self._writer.generation_known:
                check_unmigrated(connection, self._file.schema)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailableError("the operation store is closed")

    async def _watch_others(self) -> None:
        """Hint at what other processes write, and keep up with it."""
        told, version = "", self._file.data_version
        company = 0
        while True:
            company = _COMPANY_TURNS if self._file.generation.hints.visit() else max(0, company - 1)
            watchful = company > 0 and self._feed.has_listeners
            pause = OTHERS_POLL_SECONDS if watchful else CATCH_UP_SECONDS
            try:
                for _ in range(round(CATCH_UP_SECONDS / pause)):
                    await self._clock.sleep(pause)
                    await self._tell_of_others()
                newest = await self._writer.run(CatchUp())
            except Exception as error:  # noqa: BLE001  # nobody else would tell what others write
                if repr(error) != told:
                    told = repr(error)
                    unforeseen = not isinstance(error, StoreUnavailableError)
                    _log.warning("%s", error, exc_info=unforeseen)
                continue
            told = ""
            if newest != version and not self._others_wrote:  # it was no process of ours
                self._cache.clear()
                self._feed.publish(None)
            version, self._others_wrote = newest, False

    async def _tell_of_others(self) -> None:
        """Hint at what other processes have written since the last time."""
        rows = self._file.generation.hints.news()
        if rows is not None and not rows:
            return
        changes: Changes = None  # unless it can be read what they were
        try:
            if rows is not None:
                changes = await self._changes_of(list(rows))
        finally:
            self._feed.publish(changes)

    async def _changes_of(self, rows: Sequence[int]) -> Sequence[Change]:
        """Return how operations stand that have changed; what is gone is left out."""

        def read() -> Sequence[Change]:
            found: list[Change] = []
            for batch in statements.batches(rows):
                sql = statements.select_hinted(len(batch))
                for name, method, state, asked, deleted in self._file.reader.execute(sql, batch):
                    found.append(Change(name, method, State(state), bool(asked), bool(deleted)))
            return found

        return await self._read(read)

    def _close(self) -> None:
        """Wait for what was asked for, then close the file. Not for the event loop."""
        self._writer.join()
        self._reader_thread.shutdown()
        self._file.close()
