"""The engine put together: one for a process and a store."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Collection, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self

from outlast.engine.executor import Executor
from outlast.engine.manager import OperationManager
from outlast.engine.methods import Method
from outlast.engine.settings import EngineSettings
from outlast.engine.sweeping import expire_forever, reap_forever, tell_of_unserved
from outlast.engine.waiters import WaiterHub
from outlast.engine.watchdog import LoopWatchdog
from outlast.ports import Clock, OperationStore

_log = logging.getLogger(__name__)


class Engine:
    """Use cases, waiters, an executor and retention over one store.

    Open it with `Engine.open`. Methods may be registered until `start`.
    """

    def __init__(
        self,
        store: OperationStore,
        clock: Clock,
        settings: EngineSettings,
        *,
        worker: str | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self.store = store
        self.clock = clock
        self.settings = settings
        self._methods: dict[str, Method] = {}
        self._taken: dict[str, Method] = {}
        chance = chance or random.Random()  # noqa: S311  # jitter, no secret
        self._hub = WaiterHub(
            store,
            clock,
            max_waiters=settings.max_waiters,
            poll_seconds=settings.waiter_poll_interval.total_seconds(),
            chance=chance,
        )
        self.manager = OperationManager(store, clock, self._hub, settings, self._methods)
        self.executor = Executor(store, clock, self._taken, settings, worker=worker, chance=chance)
        self._sweepers: list[asyncio.Task[None]] = []
        self._watchdog: LoopWatchdog | None = None
        self._stopping = False
        self.died: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Gets the error when a background task ends that should not have."""
        self._watch(*self._hub.tasks)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, store: OperationStore, clock: Clock, settings: EngineSettings
    ) -> AsyncIterator[Self]:
        """Yield an engine that has not started to work; stop it in the end."""
        engine = cls(store, clock, settings)
        try:
            yield engine
        finally:
            await engine.stop()

    @property
    def methods(self) -> Mapping[str, Method]:
        """The registered methods by name."""
        return self._methods

    @property
    def taken(self) -> Collection[str]:
        """The names of the methods whose operations are run here."""
        return self._taken.keys()

    @property
    def waiting(self) -> int:
        """How many calls wait for operations."""
        return self._hub.count

    def register(self, method: Method) -> None:
        """Make a method known before `start`: its operations can be started, and run if taken."""
        self._methods[method.name] = method

    def start(
        self,
        *,
        execute: bool = True,
        taken: Collection[str] | None = None,
        watch_loop: bool = False,
    ) -> None:
        """Begin to run operations (unless told not to) and to forget expired ones.

        `taken` names the registered methods whose operations are run; None is all of them.
        With `watch_loop`, a thread keeps the leases while a handler blocks the event
        loop; the clock must then be the machine's.
        """
        if execute:
            names = self._methods if taken is None else taken
            self._taken.update({name: self._methods[name] for name in names})
            _log.info("worker %s runs %s", self.executor.worker, ", ".join(names) or "nothing")
            self._watch(*self.executor.start())
            if watch_loop:
                self._watchdog = LoopWatchdog(self.executor.leases, self.clock, self.settings)
                self._watchdog.start()
            self._sweep("unserved", tell_of_unserved(self.store, self._methods))
        expiring = expire_forever(self.store, self.clock, self.settings.expire_interval)
        self._sweep("expiry", expiring)
        self._sweep("reaper", reap_forever(self.store, self.clock, self.settings.lease))

    def wake_waiters(self) -> None:
        """Answer every waiting call with the latest state; new ones wait as ever."""
        self._hub.wake()

    def release_waiters(self) -> None:
        """Answer every waiting call with the latest state; new ones do not wait."""
        self._hub.release()

    async def give_back(self) -> None:
        """Run nothing more, and give back what is running. Idempotent."""
        self._stopping = True
        await self.executor.stop()

    async def stop(self) -> None:
        """Give back what is running and end. Idempotent."""
        await self.give_back()
        if self._watchdog is not None:
            self._watchdog.stop()
        for sweeper in self._sweepers:
            sweeper.cancel()
        if self._sweepers:
            await asyncio.wait(self._sweepers)
        await self._hub.close()
        self.died.cancel()

    def _sweep(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=f"outlast-{name}")
        self._sweepers.append(task)
        self._watch(task)

    def _watch(self, *tasks: asyncio.Task[None]) -> None:
        for task in tasks:
            task.add_done_callback(self._on_end)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        """Notice a background task that ended: without it the engine only seems to work."""
        error: BaseException | None
        if task.cancelled():
            error = None if self._stopping else RuntimeError(f"{task.get_name()} was cancelled")
        else:
            error = task.exception()
        if error is not None:
            _log.critical("%s died", task.get_name(), exc_info=error)
            if not self.died.done():
                self.died.set_exception(error)
