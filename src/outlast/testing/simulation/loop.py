"""An event loop without a machine: virtual time, no I/O, and an order that a seed decides."""

import asyncio
import contextvars
import heapq
import random
from asyncio import Handle, TimerHandle
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from itertools import count
from math import ceil
from typing import Any, TypeVarTuple

Ts = TypeVarTuple("Ts")

_MICROSECONDS = 1_000_000
_ROUNDING = 1e-3
"""A sum of times that is off by less than so many microseconds is exact."""
_MAX_STEPS_AT_ONCE = 20_000
"""So many steps without time passing are taken to be a loop that never ends."""


class StalledError(Exception):
    """Nothing will ever happen any more, or no time passes any more."""


class Host:
    """One process, as the loop sees it: its callbacks run in order, or not at all.

    Everything that code on a host begins (tasks, timers, callbacks) belongs to it,
    by its context.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.paused = False
        self.resumed_at = 0.0
        """When it last went on after a pause, in the loop's seconds."""
        self.ready: deque[Handle] = deque()
        self.context = contextvars.copy_context()
        self.context.run(_current.set, self)
        self._stalled = 0.0
        self._paused_at = 0.0

    def stalled(self, now: float) -> float:
        """Return for how many seconds it has stood still in all."""
        return self._stalled + (now - self._paused_at if self.paused else 0.0)

    def pause(self, now: float) -> None:
        """Stand still, as a process does that was sent SIGSTOP."""
        self.paused, self._paused_at = True, now

    def resume(self, now: float) -> None:
        """Go on with everything that has become due meanwhile."""
        self._stalled = self.stalled(now)
        self.paused, self.resumed_at = False, now

    def kill(self) -> None:
        """End without a trace: nothing that belongs to it runs any more, no clean-up either."""
        self.alive = False
        self.ready.clear()


_current: ContextVar[Host | None] = ContextVar("host", default=None)


class SimulatedLoop(asyncio.BaseEventLoop):
    """Runs the callbacks of several hosts.

    The callbacks of one host run in the order that asyncio promises; which host is
    next, and which of two timers that are due at the same time, is left to chance.
    Time passes only when no host has anything to do, and then jumps.
    """

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.outside = Host("outside")
        """Whatever is no simulated process: the network, the store, the clients."""
        self.tasks: list[tuple[Host, asyncio.Task[Any]]] = []
        """Every task that was ever created."""
        self.steps = 0
        self._chance = chance
        self._microseconds = 0
        self._hosts = [self.outside]
        self._timers: list[tuple[int, float, int, Host, TimerHandle]] = []
        self._order = count()
        self._steps_at_once = 0
        self._failure: Exception | None = None

    def add_host(self, name: str) -> Host:
        """Return a new host."""
        host = Host(name)
        self._hosts = [it for it in self._hosts if it.alive] + [host]
        return host

    def fail(self, error: Exception) -> None:
        """End the run with an error, before anything else happens."""
        self._failure = self._failure or error

    def time(self) -> float:
        """Return the seconds that have passed."""
        return self._microseconds / _MICROSECONDS

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> Handle:
        """Queue a callback at its host."""
        handle = Handle(callback, args, self, context)
        host = self._host_of(context)
        if host.alive:
            host.ready.append(handle)
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> TimerHandle:
        """Set a timer, which belongs to a host too."""
        timer = TimerHandle(when, callback, args, self, context)
        due = max(ceil(when * _MICROSECONDS - _ROUNDING), self._microseconds)
        entry = (due, self._chance.random(), next(self._order), self._host_of(context), timer)
        heapq.heappush(self._timers, entry)
        return timer

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """Create a task and remember it."""
        host = self._host_of(options.get("context"))
        task: asyncio.Task[Any] = super().create_task(coro, **options)
        self.tasks.append((host, task))
        return task

    def spawn(
        self, host: Host, work: Coroutine[Any, Any, Any], name: str | None = None
    ) -> asyncio.Task[Any]:
        """Create a task on a host."""
        return self.create_task(work, name=name, context=host.context.copy())

    def bury(self, gone: type[BaseException]) -> None:
        """Dispose of the tasks that were left on dead hosts.

        Their coroutines are closed one by one, because what they do about that must
        not come up anywhere; a call for the outside answers them with `gone`.
        """
        for _, task in self.tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # not in its stub
                _close(task.get_coro(), gone)

    def _run_once(self) -> None:
        """Let one callback run, or time pass."""
        if self._failure is not None:
            raise self._failure
        while self._timers and self._timers[0][0] <= self._microseconds:
            _, _, _, owner, timer = heapq.heappop(self._timers)
            if owner.alive and not timer.cancelled():
                owner.ready.append(timer)
        hosts = [host for host in self._hosts if host.ready and not host.paused]
        if not hosts:
            self._jump()
            return
        self.steps += 1
        self._steps_at_once += 1
        if self._steps_at_once > _MAX_STEPS_AT_ONCE:
            raise StalledError("the processes are busy for ever, and no time passes")
        chosen = hosts[int(self._chance.random() * len(hosts))]
        handle = chosen.ready.popleft()
        if not handle.cancelled():
            handle._run()

    def _jump(self) -> None:
        if not self._timers:
            raise StalledError("everybody waits, and nothing will ever happen")
        self._microseconds = self._timers[0][0]
        self._steps_at_once = 0

    def _host_of(self, context: Context | None) -> Host:
        host = _current.get() if context is None else context.get(_current)
        return host or self.outside


def _close(coroutine: Any, gone: type[BaseException]) -> None:
    for _ in range(10):  # one that waits while it cleans up must be closed again
        try:
            coroutine.close()
        except (RuntimeError, gone):
            continue
        return
