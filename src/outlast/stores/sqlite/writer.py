"""The one thread that writes: group commit.

Commands that wait are run together in one transaction, so that one sync of the
disk serves them all. Their callers hear of it only after the commit.
"""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from outlast.domain.errors import OutlastError, StoreUnavailableError
from outlast.ports import Change
from outlast.stores.sqlite.connection import (
    check_unmigrated,
    is_busy,
    is_damage,
    translated_errors,
)
from outlast.stores.sqlite.generation import Generation
from outlast.stores.sqlite.transaction import Command, Transaction

T = TypeVar("T")

_log = logging.getLogger(__name__)

MAX_BATCH = 256
"""How many commands one transaction takes at the most."""

_LOCK_TURN_MILLISECONDS = 100
"""How long the thread waits for another process's transaction before it looks up."""

_LONGEST_WAIT_SECONDS = 10.0
"""How long another thread than the event loop's waits for its command."""


@dataclass(slots=True, eq=False)
class _Job:
    command: Command[Any]
    future: asyncio.Future[Any] | Future[Any]
    """Of the event loop, or of another thread that waits for it."""
    result: Any = None
    error: BaseException | None = None


@dataclass(slots=True)
class Written:
    """What a batch has committed."""

    changes: list[Change]
    generation: int
    """The shared number, which nobody has moved since if it still is the same."""
    others_wrote: bool = False
    """Whether another process may have committed since this one did last."""


class Writer:
    """Runs commands on a connection of its own, in a thread of its own.

    A command whose caller gives up before its turn is not run. For another process's
    transaction the connection's busy timeout is waited, and hardly at all after `stop`.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        new_transaction: Callable[[], Transaction],
        generation: Generation,
        schema: int,
        publish: Callable[["Written"], None],
    ) -> None:
        self._connection = connection
        self._generation = generation
        self._schema = schema
        self.generation_known = -1
        """While the shared number is this one, the file has the schema that it was opened with."""
        self._generation_left = generation.read()
        """What the shared number was after the last batch: others have moved it if it is another."""
        self._new_transaction = new_transaction
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="outlast-sqlite-writer", daemon=True)
        self._stopped = False
        (patience,) = connection.execute("PRAGMA busy_timeout").fetchone()
        self._lock_turns = max(1, patience // _LOCK_TURN_MILLISECONDS)
        connection.execute(f"PRAGMA busy_timeout = {min(patience, _LOCK_TURN_MILLISECONDS)}")
        self._thread.start()

    async def run(self, command: Command[T]) -> T:
        """Run a command; return when what it wrote is durable."""
        if self._stopped:
            raise StoreUnavailableError("the operation store is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Job(command, future))
        return await future

    def run_from_thread(self, command: Command[T]) -> T:
        """Do as `run` does, for a thread that waits, whatever the event loop is doing."""
        if self._stopped:
            raise StoreUnavailableError("the operation store is closed")
        future: Future[T] = Future()
        self._queue.put(_Job(command, future))
        try:
            return future.result(_LONGEST_WAIT_SECONDS)
        except TimeoutError:
            raise StoreUnavailableError("the operation store does not answer") from None

    def stop(self) -> None:
        """Let the thread end when it has finished what was asked for."""
        if not self._stopped:
            self._stopped = True
            self._queue.put(None)

    def join(self) -> None:
        """Wait until the thread has ended. Not for the event loop."""
        self._thread.join()

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            jobs, stop = self._gather(job)
            written = Written([], self.generation_known)
            self._commit(jobs, written)
            for job in jobs:
                if isinstance(job.future, Future):
                    _answer(job)
            try:
                self._loop.call_soon_threadsafe(self._deliver, jobs, written)
            except RuntimeError:  # the loop is closed: nobody is left to hear of it
                return
            if stop:
                return

    def _gather(self, first: _Job) -> tuple[list[_Job], bool]:
        """Return the job with those that wait behind it, and whether to stop after them."""
        jobs = [first]
        while len(jobs) < MAX_BATCH:
            try:
                job = self._queue.get_nowait()
            except Empty:
                break
            if job is None:
                return jobs, True
            jobs.append(job)
        return jobs, False

    def _commit(self, jobs: list[_Job], written: Written) -> None:
        """Run jobs in one transaction; if one spoils it, halve them until it is alone."""
        jobs = [job for job in jobs if not job.future.cancelled()]
        if not jobs:
            return
        try:
            self._attempt(jobs, written)
        except StoreUnavailableError as error:
            if len(jobs) == 1 or not is_damage(error.__cause__):
                for job in jobs:
                    job.error = _copy(error)
                return
        except Exception as error:  # noqa: BLE001  # one bad command must not take others down
            if len(jobs) == 1:
                jobs[0].error = error
                return
        else:
            return
        _log.info("a batch of %d writes failed; its halves are tried", len(jobs))
        middle = len(jobs) // 2
        self._commit(jobs[:middle], written)
        self._commit(jobs[middle:], written)

    def _attempt(self, jobs: list[_Job], written: Written) -> None:
        connection = self._connection
        with translated_errors():
            if connection.in_transaction:  # the last one could not even be rolled back
                connection.execute("ROLLBACK")
            self._begin()
            written.others_wrote |= self._generation.read() != self._generation_left
            rows_before = connection.total_changes
            try:
                check_unmigrated(connection, self._schema)
                transaction = self._new_transaction()
                self._generation.reach(transaction.now)
                run_jobs(transaction, jobs)
                transaction.flush()
                if connection.total_changes != rows_before:
                    self._generation.move()
                self._generation.hints.put(transaction.rows_for_others())
                self.generation_known = self._generation_left = self._generation.read()
                written.generation = self.generation_known
                connection.execute("COMMIT")
                self._generation.hints.committed()
            except BaseException:
                with suppress(sqlite3.Error):
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                raise
        written.changes.extend(transaction.committed())

    def _begin(self) -> None:
        """Take the write lock as soon as no other process has it."""
        for turns_left in reversed(range(self._lock_turns)):
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if not turns_left or self._stopped or not is_busy(error):
                    raise
            else:
                return

    def _deliver(self, jobs: list[_Job], written: Written) -> None:
        """Answer the callers, then tell of the changes. Runs on the event loop."""
        for job in jobs:
            if not job.future.done():
                _answer(job)
        self._publish(written)


def _answer(job: _Job) -> None:
    if job.error is not None:
        job.future.set_exception(job.error)
    else:
        job.future.set_result(job.result)


def run_jobs(transaction: Transaction, jobs: Sequence[_Job]) -> None:
    """Run the jobs of a batch. They were asked for at once, so any order is right."""
    by_kind: dict[type[Command[Any]], list[_Job]] = {}
    for job in jobs:
        by_kind.setdefault(type(job.command), []).append(job)
    for kind in sorted(by_kind, key=lambda kind: kind.order):
        group = by_kind[kind]
        kind.prepare(transaction, [job.command for job in group])
        for job in group:
            job.error = None
            try:
                job.result = job.command.run(transaction)
            except OutlastError as error:
                if isinstance(error, StoreUnavailableError):
                    raise
                job.error = error


def _copy(error: StoreUnavailableError) -> StoreUnavailableError:
    """Return an error to raise in one more task: each adds its own traceback."""
    copy = StoreUnavailableError(error.message)
    copy.__cause__ = error.__cause__
    return copy
