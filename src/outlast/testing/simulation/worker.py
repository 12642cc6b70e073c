"""A simulated process: the real engine, with its own clock and its own way to the store."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

from outlast.domain.errors import OutlastError
from outlast.engine.engine import Engine
from outlast.engine.identifiers import Identifiers
from outlast.engine.methods import Method
from outlast.engine.retry import RetryPolicy
from outlast.testing.simulation.attempts import Attempts
from outlast.testing.simulation.clock import SimulatedClock
from outlast.testing.simulation.history import History
from outlast.testing.simulation.loop import SimulatedLoop
from outlast.testing.simulation.network import Connection, Observer, SharedStore
from outlast.testing.simulation.plan import Plan
from outlast.testing.simulation.scripts import METADATA, Actor

T = TypeVar("T")

PLAIN = "simulation.v1.Work/Plain"
NARROW = "simulation.v1.Work/Narrow"
SCARCE = "simulation.v1.Work/Scarce"
BRIEF = "simulation.v1.Work/Brief"


_SETTLE_TURNS = 10
"""Turns of the event loop that a task whose work is over needs at most to end."""


class ConnectionLostError(Exception):
    """The process that served a call is gone; what it did, nobody knows."""


class _Numbered(Identifiers):
    """Identifiers that a replay repeats."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix
        self._count = 0

    def new(self) -> str:
        self._count += 1
        return f"{self._prefix}-{self._count}"


class Worker:
    """One process from its start to its end."""

    def __init__(
        self,
        name: str,
        *,
        plan: Plan,
        loop: SimulatedLoop,
        shared: SharedStore,
        attempts: Attempts,
        history: History,
        observer: Observer,
        chance: random.Random,
    ) -> None:
        self.host = loop.add_host(name)
        self.connection = Connection(
            shared,
            loop=loop,
            host=self.host,
            chance=chance,
            observer=observer,
            lease_seconds=plan.lease,
            crash=self.crash,
        )
        self.stopping = False
        self._plan = plan
        self._loop = loop
        self._attempts = attempts
        self._history = history
        self._chance = chance
        self._clock = SimulatedClock(loop, chance.uniform(-1, 1), chance.uniform(0, 1e5))
        self._engine: Engine | None = None
        self._serving: asyncio.Future[None] = loop.create_future()
        self._told_to_stop: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[None] = loop.create_future()
        self._calls: dict[asyncio.Future[Any], asyncio.Task[None]] = {}
        self._main = loop.spawn(self.host, self._run(), f"main:{name}")

    @property
    def ready(self) -> bool:
        """Whether it takes calls."""
        return self.host.alive and self._serving.done() and not self.stopping

    def crash(self, when: str) -> None:
        """Die at once, without any clean-up."""
        self._history.note(self.host.name, f"crashes {when}")
        self._die()

    async def call(self, use: Callable[[Engine], Awaitable[T]]) -> T:
        """Have something done here on behalf of a client.

        Raises what is raised there, and ConnectionLostError when the process dies.
        """
        reply: asyncio.Future[T | BaseException] = self._loop.create_future()
        task = self._loop.spawn(self.host, self._serve(use, reply), "call")
        self._calls[reply] = task
        try:
            result = await reply
        finally:
            self._calls.pop(reply, None)
            if not reply.done() or reply.cancelled():
                task.cancel()
        if isinstance(result, BaseException):
            raise result
        return result

    async def stop(self, seconds: float) -> None:
        """Stop as on SIGTERM, within so many seconds while it does not stand still."""
        self.stopping = True
        self._history.note(self.host.name, "is told to stop")
        if not self._told_to_stop.done():
            self._told_to_stop.set_result(None)
        began, stalled = self._loop.time(), self.host.stalled(self._loop.time())
        while not self._ended.done():
            await asyncio.wait([self._ended], timeout=seconds)
            now = self._loop.time()
            if now - began - (self.host.stalled(now) - stalled) > seconds:
                self._history.broken("a worker stops in time", f"{self.host.name} does not")

    async def _run(self) -> None:
        engine = Engine(
            self.connection,
            self._clock,
            self._plan.settings,
            worker=self.host.name,
            chance=self._chance,
        )
        engine.manager._identifiers = _Numbered(self.host.name)
        for method in self._methods():
            engine.register(method)
        engine.start()
        self._engine = engine
        self._serving.set_result(None)
        await asyncio.wait([self._told_to_stop, engine.died], return_when="FIRST_COMPLETED")
        if engine.died.done():
            detail = f"{self.host.name}: {engine.died.exception()!r}"
            self._history.broken("no background task dies", detail)
        engine.release_waiters()
        await engine.stop()
        if calls := [task for task in self._calls.values() if not task.done()]:
            await asyncio.wait(calls)
        for _ in range(_SETTLE_TURNS):
            await asyncio.sleep(0)
        self._check_leaks()
        self._history.note(self.host.name, "has stopped")
        self._die()

    async def _serve(
        self, use: Callable[[Engine], Awaitable[T]], reply: asyncio.Future[Any]
    ) -> None:
        if self._engine is None:
            raise RuntimeError("called before it serves")
        result: T | BaseException
        try:
            result = await use(self._engine)
        except OutlastError as error:
            result = error
        except Exception as error:  # noqa: BLE001  # whatever it is, it must not be
            self._history.broken("a call fails only as it says", repr(error))
            return
        if not reply.done():
            reply.set_result(result)

    def _methods(self) -> list[Method]:
        plan = self._plan
        retry = RetryPolicy(
            max_attempts=plan.attempts,
            initial_backoff=timedelta(seconds=plan.backoff),
            max_backoff=timedelta(seconds=10),
        )
        actor = Actor(self.host, self._attempts, retry)
        common: dict[str, Any] = {
            "run": actor.run,
            "metadata_type": METADATA,
            "retry": retry,
            "retention": timedelta(seconds=plan.retention),
        }
        return [
            Method(name=PLAIN, **common),
            Method(name=NARROW, concurrency=plan.narrow, **common),
            Method(name=SCARCE, max_running=plan.scarce, **common),
            Method(name=BRIEF, timeout=timedelta(seconds=plan.timeout), **common),
        ]

    def _check_leaks(self) -> None:
        """Check that nothing is left but handlers that do not stop."""
        handlers = {f"outlast:{name}" for name in self._attempts.running_on(self.host)}
        for host, task in self._loop.tasks:
            left = host is self.host and not task.done() and task is not self._main
            if left and task.get_name() not in handlers:
                self._history.broken("a stopped worker leaves no task", task.get_name())

    def _die(self) -> None:
        if not self.host.alive:
            return
        self.host.kill()
        self.connection.close()
        for reply in tuple(self._calls):
            if not reply.done():
                reply.set_result(ConnectionLostError(self.host.name))
        if not self._ended.done():
            self._ended.set_result(None)
