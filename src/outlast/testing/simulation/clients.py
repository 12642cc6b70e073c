"""Clients: they start operations, look at them, and find fault with every answer."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from outlast.domain.errors import (
    ExclusiveConflictError,
    NotRedrivableError,
    OperationNotFoundError,
    OutlastError,
    RequestIdReusedError,
    StoreUnavailableError,
)
from outlast.domain.listing import Cursor, ListQuery
from outlast.domain.operation import Operation
from outlast.engine.engine import Engine
from outlast.engine.manager import Page, StartRequest
from outlast.testing.simulation.history import History
from outlast.testing.simulation.lives import Lives
from outlast.testing.simulation.loop import SimulatedLoop
from outlast.testing.simulation.plan import Plan
from outlast.testing.simulation.scripts import Script
from outlast.testing.simulation.worker import (
    BRIEF,
    NARROW,
    PLAIN,
    SCARCE,
    ConnectionLostError,
    Worker,
)

T = TypeVar("T")

_METHODS = (PLAIN, NARROW, SCARCE, BRIEF)
_PARENTS = ("", "shelves/1")
_ACTS = ("wait",) * 4 + ("get", "cancel", "cancel", "delete", "redrive", "list")
_PAGE = 3
_MOMENT = 0.05
"""Seconds that nobody has to account for."""


class NoAnswerError(Exception):
    """A call came to nothing, as it may: the client does not know what it did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """What a client asks for when it starts an operation."""

    method: str
    script: Script
    parent: str
    request_id: str
    digest: bytes
    exclusive_key: str

    def send(self, engine: Engine) -> Awaitable[Operation]:
        """Start it at a server."""
        start = StartRequest(
            method=engine.methods[self.method],
            request=self.script.request(),
            digest=self.digest,
            parent=self.parent,
            request_id=self.request_id,
            exclusive_key=self.exclusive_key,
        )
        return engine.manager.start(start)


class Client:
    """One client, which does one thing after the other."""

    def __init__(
        self,
        name: str,
        *,
        plan: Plan,
        loop: SimulatedLoop,
        lives: Lives,
        history: History,
        started: list[str],
        workers: Sequence[Worker],
        chance: random.Random,
    ) -> None:
        self._name = name
        self._plan = plan
        self._loop = loop
        self._lives = lives
        self._history = history
        self._started = started
        """The names that all clients know."""
        self._workers = workers
        self._chance = chance
        self._scripts = 0

    async def run(self) -> None:
        """Do what the plan asks of a client."""
        for _ in range(self._plan.actions):
            await asyncio.sleep(self._chance.choice([0.0, 0.0, 0.2, 4.0]))
            try:
                await self._act()
            except (NoAnswerError, OperationNotFoundError):
                continue

    async def _act(self) -> None:
        if not self._started or self._chance.random() < 0.4:
            await self._start()
            return
        name = self._chance.choice(self._started)
        match self._chance.choice(_ACTS):
            case "wait":
                await self._wait(name, self._chance.choice([0.0, 2.0, 30.0, 90.0]))
            case "get":
                await self._get(name)
            case "cancel":
                await self._call(f"cancels {name}", lambda it: it.manager.cancel(name), name)
            case "delete":
                await self._call(f"deletes {name}", lambda it: it.manager.delete(name), name)
            case "redrive":
                await self._redrive(name)
            case _:
                await self._list(self._chance.choice(_PARENTS))

    # What a client does

    async def _start(self) -> None:
        order = self._new_order()
        for _ in range(3 if order.request_id else 1):
            try:
                operation = await self._call(f"starts {order.request_id}", order.send)
            except (RequestIdReusedError, ExclusiveConflictError):
                return
            except NoAnswerError:
                order = replace(order, script=self._new_script())
                continue
            self._check_accepted(operation, order)
            if operation.name not in self._started:
                self._started.append(operation.name)
            if self._chance.random() < 0.6:
                await self._wait(operation.name, self._chance.choice([30.0, 90.0]))
            return

    def _new_order(self) -> _Order:
        chance = self._chance
        shared = chance.random() < 0.5
        number = chance.randrange(len(_METHODS))
        return _Order(
            method=_METHODS[number] if shared else chance.choice(_METHODS),
            script=self._new_script(),
            parent="" if shared else chance.choice(_PARENTS),
            request_id=f"shared-{number}" if shared else "",
            digest=b"same" if chance.random() < 0.9 else b"another",
            exclusive_key="" if shared else chance.choice(["", "", "", "the press"]),
        )

    def _new_script(self) -> Script:
        self._scripts += 1
        return Script.draw(self._chance, f"{self._name}-{self._scripts}")

    async def _redrive(self, name: str) -> None:
        try:
            operation = await self._call(
                f"redrives {name}", lambda it: it.manager.redrive(name), name
            )
        except (NotRedrivableError, ExclusiveConflictError):
            return
        if operation.retried_from != name or self._lives.get(operation.name) is None:
            self._broken("a redrive is kept, and says of what", operation.name)
        self._started.append(operation.name)

    async def _get(self, name: str) -> None:
        revision = self._revision(name)
        operation = await self._call(f"gets {name}", lambda it: it.manager.get(name), name)
        self._check_current(operation, revision)

    async def _wait(self, name: str, seconds: float) -> None:
        revision = self._revision(name)
        worker = await self._find_worker()
        watch = _Watch(worker, self._loop)
        longest = min(seconds, self._plan.settings.max_wait.total_seconds())
        try:
            operation = await self._call(
                f"waits for {name}",
                lambda it: it.manager.wait(name, seconds),
                name,
                worker=worker,
                seconds=longest,
            )
        except OperationNotFoundError:
            self._check_prompt(name, watch)
            raise
        self._check_current(operation, revision)
        self._check_prompt(name, watch)
        if not operation.done and not worker.stopping and watch.elapsed < longest - _MOMENT:
            self._broken("a wait ends when its operation has, or its time", name)

    async def _list(self, parent: str) -> None:
        expected = self._listed(parent)
        met: list[str] = []
        after: Cursor | None = None
        while True:
            query = ListQuery(parent, _PAGE, after)
            page = await self._call(f"lists {parent!r}", partial(_list_page, query))
            met += [operation.name for operation in page.operations]
            if (after := page.next) is None:
                break
        missed = expected.intersection(self._listed(parent)).difference(met)
        if missed or len(met) != len(set(met)):
            self._broken("a list meets each operation once", f"{sorted(missed)} of {met}")

    # Calls

    async def _call(
        self,
        what: str,
        use: Callable[[Engine], Awaitable[T]],
        name: str = "",
        *,
        worker: Worker | None = None,
        seconds: float = 0.0,
    ) -> T:
        """Call a server; raise NoAnswerError for a failure that there may be."""
        worker = worker or await self._find_worker()
        watch = _Watch(worker, self._loop)
        patience = 2 * self._plan.settings.store_patience.total_seconds()
        limit = seconds + patience + 8 * worker.connection.faults.slowest + 1
        self._history.note(self._name, f"{what} at {worker.host.name}")
        try:
            async with asyncio.timeout(limit):
                result = await worker.call(use)
        except ConnectionLostError:
            self._history.note(self._name, "loses its connection")
            raise NoAnswerError from None
        except TimeoutError:
            if not watch.stalled:
                self._broken("every call ends in time", f"{what} at {worker.host.name}")
            raise NoAnswerError from None
        except StoreUnavailableError as error:
            if not watch.failures and watch.elapsed < patience / 2 - _MOMENT:
                self._broken("calls succeed while the store answers", f"{what}: {error}")
            raise NoAnswerError from None
        except OutlastError as error:
            self._history.note(self._name, f"is told {error.reason}")
            if isinstance(error, OperationNotFoundError) and not self._lives.may_be_missing(name):
                self._broken("what was accepted is found", name)
            raise
        return result

    async def _find_worker(self) -> Worker:
        while True:
            if ready := [worker for worker in self._workers if worker.ready]:
                return self._chance.choice(ready)
            await asyncio.sleep(0.2)

    # What an answer must be

    def _check_accepted(self, operation: Operation, order: _Order) -> None:
        self._history.note(self._name, f"started {operation.name}")
        if self._lives.get(operation.name) is None:
            self._broken("what was accepted is kept", operation.name)
        if (operation.request_id, operation.method) not in {
            (order.request_id, order.method),
            ("", order.method),  # deleted meanwhile
        }:
            self._broken("a request id finds its own operation", operation.name)

    def _check_current(self, operation: Operation, revision: int) -> None:
        if operation.revision < revision:
            detail = f"{operation.name}: {operation.revision} after {revision}"
            self._broken("nobody reads what is out of date", detail)

    def _check_prompt(self, name: str, watch: "_Watch") -> None:
        """Check that a wait has ended soon after its operation was done, or deleted."""
        life = self._lives.get(name)
        ends = (
            [] if life is None else [it for it in (life.done_at, life.hidden_at) if it is not None]
        )
        if not ends:
            return
        poll = self._plan.settings.waiter_poll_interval.total_seconds()
        late = self._loop.time() - max(min(ends), watch.began)
        if late > watch.allowance(poll):
            detail = f"{name}: {late:.3f} s late at {watch.worker.host.name}"
            self._broken("a wait misses no end", detail, name)

    def _revision(self, name: str) -> int:
        life = self._lives.get(name)
        return 0 if life is None else life.record.revision

    def _listed(self, parent: str) -> set[str]:
        return {
            life.record.name
            for life in self._lives
            if life.record.parent == parent and self._lives.visible(life.record.name)
        }

    def _broken(self, invariant: str, detail: str, name: str = "") -> None:
        self._history.broken(invariant, f"{self._name}: {detail}", name)


def _list_page(query: ListQuery, engine: Engine) -> Awaitable[Page]:
    return engine.manager.list_page(query)


class _Watch:
    """What a server had to put up with while it served a call."""

    def __init__(self, worker: Worker, loop: SimulatedLoop) -> None:
        self.worker = worker
        self.began = loop.time()
        self._loop = loop
        self._stalled = worker.host.stalled(self.began)
        self._faults = worker.connection.faults

    @property
    def elapsed(self) -> float:
        """For how many seconds the call has gone on."""
        return self._loop.time() - self.began

    @property
    def stalled(self) -> float:
        """For how many seconds the server stood still."""
        return self.worker.host.stalled(self._loop.time()) - self._stalled

    @property
    def failures(self) -> int:
        """How many of the server's calls to the store have failed."""
        return self._failures_since(self.began)

    def allowance(self, poll_seconds: float) -> float:
        """Return how late an answer may be that waits for a change."""
        faults = self._faults
        seconds = faults.hint_slowest + 4 * faults.slowest + self.stalled + _MOMENT
        retry = 1 + 2 * faults.slowest  # after a failure the hub pauses for a second
        seconds += self._failures_since(self.began - retry) * retry
        if faults.hint_lost:
            seconds += poll_seconds
        return seconds

    def _failures_since(self, moment: float) -> int:
        return sum(failed_at >= moment for failed_at in self.worker.connection.failures)
