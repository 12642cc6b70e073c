"""Waiting for operations: one hub a process, at a cost per change and not per waiter."""

import asyncio
import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum, auto

from outlast.domain.errors import OperationNotFoundError, StoreUnavailableError, TooManyWaitersError
from outlast.domain.operation import Operation
from outlast.engine.patience import absorb
from outlast.outages import Outage
from outlast.ports import Change, Changes, Clock, OperationStore

_log = logging.getLogger(__name__)


class _Answer(Enum):
    """What a waiter is told if not that its operation is done."""

    LOOK = auto()
    """Waiting is over: look what there is now."""
    GONE = auto()
    """The operation was deleted."""


_Waiter = asyncio.Future[Operation | _Answer]


class WaiterHub:
    """Wakes those who wait for an operation to become done.

    Hints from the store wake them; because hints may be lost, what is waited for
    is also looked up now and then.
    """

    def __init__(
        self,
        store: OperationStore,
        clock: Clock,
        *,
        max_waiters: int,
        poll_seconds: float,
        chance: random.Random,
    ) -> None:
        self._store = store
        self._clock = clock
        self._max_waiters = max_waiters
        self._poll_seconds = poll_seconds
        self._chance = chance
        self._outage = Outage(
            _log, clock.monotonic, "waiters cannot be served", "waiters are served again"
        )
        self._waiters: dict[str, dict[_Waiter, bool]] = {}  # answered in the order they came
        """With each, whether the operation was read since it came: a hint may be older."""
        self._count = 0
        self._released = False
        self._to_read: dict[str, None] = {}
        self._work = asyncio.Event()
        self._unsubscribe = store.changes.subscribe(self._on_changes)
        self.tasks = (
            asyncio.create_task(self._read_changed(), name="outlast-waiters-reader"),
            asyncio.create_task(self._poll(), name="outlast-waiters-poll"),
        )
        """What must not end while the hub is open."""

    @property
    def count(self) -> int:
        """How many calls are waiting."""
        return self._count

    async def wait(self, name: str, seconds: float, patience: float) -> Operation | None:
        """Return an operation when it is done, or None after so many seconds.

        None comes at once if there is no time, and when the hub is released. Raises
        OperationNotFoundError, at once or when it is deleted meanwhile,
        TooManyWaitersError, and StoreUnavailableError if the store could not be asked
        within `patience`, in seconds.
        """
        if seconds <= 0 or self._released:
            return None
        if self._count >= self._max_waiters:
            raise TooManyWaitersError(self._max_waiters)
        waiter: _Waiter = asyncio.get_running_loop().create_future()
        timer = self._clock.call_later(seconds, lambda: _resolve(waiter, _Answer.LOOK))
        first = name not in self._waiters
        # Subscribe first, then read: a change in between is not missed.
        self._add(name, waiter)
        try:
            if first:
                operation = self._store.peek(name)
                if operation is None:
                    operation = await absorb(self._clock, lambda: self._store.get(name), patience)
                if operation.done:
                    return operation
                self._waiters[name][waiter] = True
            else:
                self._read_soon([name])  # one read for all who come at the same time
            answer = await waiter
        finally:
            timer.cancel()
            self._remove(name, waiter)
        if answer is _Answer.GONE:
            raise OperationNotFoundError(name)
        return answer if isinstance(answer, Operation) else None

    def wake(self) -> None:
        """Answer every waiter with the latest state."""
        for waiters in self._waiters.values():
            _settle(waiters, _Answer.LOOK)

    def release(self) -> None:
        """Answer every waiter with the latest state, and from now on wait for nothing."""
        self._released = True
        self.wake()

    async def close(self) -> None:
        """Release everybody and stop."""
        self.release()
        self._unsubscribe()
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)

    def _add(self, name: str, waiter: _Waiter) -> None:
        self._waiters.setdefault(name, {})[waiter] = False
        self._count += 1

    def _remove(self, name: str, waiter: _Waiter) -> None:
        waiters = self._waiters[name]
        del waiters[waiter]
        self._count -= 1
        if not waiters:
            del self._waiters[name]

    def _on_changes(self, changes: Changes) -> None:
        if changes is None:
            self._read_soon(self._waiters)
            return
        for change in changes:
            if change.name in self._waiters and (change.state.done or change.deleted):
                self._on_end(change)

    def _on_end(self, change: Change) -> None:
        waiters = self._waiters[change.name]
        if change.deleted:
            _settle(waiters, _Answer.GONE)
            return
        if change.record is not None:
            _settle([waiter for waiter, read in waiters.items() if read], change.record)
        if change.record is None or not all(waiters.values()):
            self._read_soon([change.name])

    def _read_soon(self, names: Iterable[str]) -> None:
        self._to_read.update(dict.fromkeys(names))
        self._work.set()

    async def _read_changed(self) -> None:
        """Read what may be done, once for all who wait for it."""
        while True:
            await self._work.wait()
            self._work.clear()
            asking = {
                name: list(self._waiters[name]) for name in self._to_read if name in self._waiters
            }
            self._to_read = {}
            if not asking:
                continue
            try:
                await self._answer(asking)
            except StoreUnavailableError as error:
                self._outage.on_failure(error)
                await self._clock.sleep(1.0)
                self._read_soon(asking)
            else:
                self._outage.on_success()

    async def _answer(self, asking: Mapping[str, Sequence[_Waiter]]) -> None:
        """Read operations and answer those of whose waiting that is the end.

        One that cannot be read must not take others down: they are halved until it is
        alone. Who waits for it looks, and is told the error.
        """
        names = list(asking)
        try:
            found = await self._store.get_many(names)
        except StoreUnavailableError:
            raise
        except Exception:  # noqa: BLE001  # whatever it is, it is told to who asks for the record
            if len(names) == 1:
                _log.exception("%s, which is waited for, cannot be read", names[0])
                _settle(asking[names[0]], _Answer.LOOK)
                return
            middle = len(names) // 2
            for half in (names[:middle], names[middle:]):
                await self._answer({name: asking[name] for name in half})
            return
        for name, waiters in asking.items():
            operation = found.get(name)
            if operation is None:
                _settle(waiters, _Answer.GONE)
            elif operation.done:
                _settle(waiters, operation)
            else:
                self._mark_read(name, waiters)

    def _mark_read(self, name: str, waiters: Iterable[_Waiter]) -> None:
        here = self._waiters.get(name, {})
        here.update((waiter, True) for waiter in waiters if waiter in here)

    async def _poll(self) -> None:
        while True:
            # Nodes that were started together must not ask the store together for ever.
            await self._clock.sleep(self._poll_seconds * self._chance.uniform(0.5, 1))
            if self._waiters:
                self._read_soon(self._waiters)


def _settle(waiters: Iterable[_Waiter], answer: Operation | _Answer) -> None:
    """Answer those who wait for an operation: it is done, or gone."""
    for waiter in waiters:
        _resolve(waiter, answer)


def _resolve(waiter: _Waiter, answer: Operation | _Answer) -> None:
    if not waiter.done():
        waiter.set_result(answer)
