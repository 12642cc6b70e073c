"""Commits what several callers write at the same time in one transaction."""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from outlast.domain.errors import OutlastError, StoreUnavailableError
from outlast.ports import Change
from outlast.stores.postgres.batching import copied, take_batch
from outlast.stores.postgres.connection import (
    LOCK_TIMEOUT,
    STATEMENT_TIMEOUT,
    Database,
    is_away,
    is_in_vain,
    is_locked,
)
from outlast.stores.postgres.held import HeldRecords
from outlast.stores.postgres.transaction import Command, OvertakenError, Transaction

T = TypeVar("T")

WRITERS = (1, 1, 32, 32)
"""How many commands have to wait for each transaction that may be under way at a time.

One is prepared while another is committed. More of them are worth what they cost if
committing takes long.
"""
LANES = 2
"""How many more there may be for what waits for locks of others."""
_ATTEMPTS = 5
"""How often a transaction is run that others get in the way of."""

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Job:
    command: Command[Any]
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None
    aside: bool = False
    """Whether it waits for a lock, and is answered later."""

    @property
    def size(self) -> int:
        return self.command.size


class Writer:
    """Runs commands in transactions; a command whose caller gives up in time is not run.

    One whose record somebody else has locked for longer than a moment is set aside, with
    all that come for the same record, so that only these wait.
    """

    def __init__(
        self,
        database: Database,
        held: HeldRecords,
        publish: Callable[[Sequence[Change]], None],
    ) -> None:
        self._database = database
        self._publish = publish
        self._held = held
        self._jobs: deque[_Job] = deque()
        self._news = asyncio.Event()
        self._aside: deque[_Job] = deque()
        self._locked: Counter[str] = Counter()
        """How many commands that were set aside concern an operation."""
        self._lanes: set[asyncio.Task[None]] = set()
        self._stopped = False
        self._tasks = [
            asyncio.create_task(self._work(least), name=f"outlast-postgres-writer-{number}")
            for number, least in enumerate(WRITERS)
        ]

    async def run(self, command: Command[T]) -> T:
        """Run a command; return when what it wrote is durable."""
        if self._stopped:
            raise StoreUnavailableError("the operation store is closed")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        job = _Job(command, future)
        if not self._goes_aside(job):
            self._jobs.append(job)
            self._news.set()
        return await future

    async def stop(self) -> None:
        """Finish what was asked for, and end."""
        self._stopped = True
        self._news.set()
        await asyncio.wait(self._tasks)
        if self._lanes:
            await asyncio.wait(self._lanes)

    async def _work(self, least: int) -> None:
        while True:
            while len(self._jobs) < least:
                if self._stopped:
                    return
                self._news.clear()
                await self._news.wait()
            jobs = take_batch(self._jobs)
            changes = await self._commit(jobs, LOCK_TIMEOUT)
            self._answer(jobs, changes)

    def _answer(self, jobs: Sequence[_Job], changes: Sequence[Change]) -> None:
        for job in jobs:
            if not (job.aside or job.future.done()):
                _answer(job)
        self._publish(changes)

    def _goes_aside(self, job: _Job) -> bool:
        """Set a command aside if one of its records is known to be locked."""
        if self._locked and not job.aside and any(it in self._locked for it in job.command.names):
            self._set_aside(job)
            return True
        return False

    def _set_aside(self, job: _Job) -> None:
        job.aside = True
        self._locked.update(job.command.names)
        self._aside.append(job)
        if sum(not lane.done() for lane in self._lanes) < LANES:  # an ended one takes no more
            lane = asyncio.create_task(self._work_aside(), name="outlast-postgres-waiting-writer")
            self._lanes.add(lane)
            lane.add_done_callback(self._lanes.discard)

    async def _work_aside(self) -> None:
        """Run what was set aside, all for the same records at once."""
        while self._aside:
            names = set(self._aside[0].command.names)
            jobs = [job for job in self._aside if names.issuperset(job.command.names)]
            self._aside = deque(job for job in self._aside if job not in jobs)
            changes = await self._commit(jobs, STATEMENT_TIMEOUT)
            for job in jobs:
                job.aside = False
                self._locked.subtract(job.command.names)
            self._locked = +self._locked
            self._answer(jobs, changes)

    async def _commit(self, jobs: Sequence[_Job], lock_timeout: timedelta) -> Sequence[Change]:
        """Run jobs in one transaction; if one spoils it, halve them until it is alone."""
        jobs = [job for job in jobs if not job.future.cancelled() and not self._goes_aside(job)]
        if not jobs:
            return []
        try:
            return await self._attempt(jobs, lock_timeout)
        except Exception as error:  # noqa: BLE001  # one bad command must not take others down
            if len(jobs) == 1 and is_locked(error.__cause__) and not jobs[0].aside:
                self._set_aside(jobs[0])
                return []
            if len(jobs) == 1 or is_away(error.__cause__):
                if isinstance(error, OvertakenError):
                    error = StoreUnavailableError("the operation store is too busy")
                for job in jobs:
                    job.error = copied(error)
                return []
        _log.info("a batch of %d writes failed; its halves are tried", len(jobs))
        middle = len(jobs) // 2
        halves = jobs[:middle], jobs[middle:]
        return [it for half in halves for it in await self._commit(half, lock_timeout)]

    async def _attempt(self, jobs: Sequence[_Job], lock_timeout: timedelta) -> Sequence[Change]:
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                async with self._database.transaction(lock_timeout) as transaction:
                    await run_jobs(transaction, jobs)
            except (StoreUnavailableError, OvertakenError) as error:
                in_vain = isinstance(error, OvertakenError) or is_in_vain(error.__cause__)
                if not attempts_left or not in_vain:
                    raise
            else:
                self._held.learn(transaction.stored)
                return transaction.changes
        raise AssertionError("unreachable")


def _answer(job: _Job) -> None:
    if job.error is not None:
        job.future.set_exception(job.error)
    else:
        job.future.set_result(job.result)


async def run_jobs(transaction: Transaction, jobs: Sequence[_Job]) -> None:
    """Run the jobs of a batch. They were asked for at once, so any order is right."""
    by_kind: dict[type[Command[Any]], list[_Job]] = {}
    for job in jobs:
        by_kind.setdefault(type(job.command), []).append(job)
    for kind in sorted(by_kind, key=lambda kind: kind.order):
        group = by_kind[kind]
        await kind.prepare(transaction, [job.command for job in group])
        for job in group:
            job.error = None
            try:
                job.result = await job.command.run(transaction)
            except OutlastError as error:
                if isinstance(error, StoreUnavailableError):
                    raise
                job.error = error
