"""Everything that takes part in one simulation, and what befalls it."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from outlast.domain.operation import Lease
from outlast.ports import Clock, OperationStore
from outlast.testing.simulation.attempts import Attempts
from outlast.testing.simulation.clients import Client
from outlast.testing.simulation.clock import SimulatedClock
from outlast.testing.simulation.history import History
from outlast.testing.simulation.lives import Lives
from outlast.testing.simulation.loop import Host, SimulatedLoop
from outlast.testing.simulation.network import Commit, SharedStore
from outlast.testing.simulation.plan import Faults, Plan, chance_for
from outlast.testing.simulation.worker import NARROW, SCARCE, Worker

_STUCK_SECONDS = 180.0
"""Longer than any attempt, lease, backoff or pause, all together."""
_STOP_SECONDS = 60.0


@dataclass(slots=True, kw_only=True)
class Report:
    """What a simulation was that broke no invariant."""

    seed: int
    digest: str = ""
    """The hash of its trace: the same whenever the same seed runs on the same code."""
    seconds: float = 0.0
    """How much time went by in it."""
    steps: int = 0
    """How many callbacks ran."""
    operations: int = 0
    workers: int = 0
    """How many processes were started."""
    pauses: int = 0
    outages: int = 0
    stops: int = 0
    """How many workers were told to stop during the storm."""


class World:
    """One store, some workers that come and go, and clients."""

    def __init__(
        self, seed: int, loop: SimulatedLoop, store_factory: Callable[[Clock], OperationStore]
    ) -> None:
        self.plan = Plan.draw(chance_for(seed, "plan"))
        self.history = History(seed, loop.time, loop.fail)
        self._report = Report(seed=seed)
        self._loop = loop
        self._chance = chance_for(seed, "disasters")
        clock = SimulatedClock(loop)
        store = store_factory(clock)
        self.lives = Lives(store, clock, loop.time, self.history, limits={SCARCE: self.plan.scarce})
        settings = self.plan.settings
        self._attempts = Attempts(
            self.lives,
            self.history,
            loop.time,
            lease_seconds=self.plan.lease,
            concurrency=settings.concurrency,
            limits={NARROW: self.plan.narrow},
        )
        self._shared = SharedStore(store, self)
        self._workers: list[Worker] = []
        self._stops: list[asyncio.Task[None]] = []
        self._storm = True
        started: list[str] = []
        self._clients = [
            Client(
                name,
                plan=self.plan,
                loop=loop,
                lives=self.lives,
                history=self.history,
                started=started,
                workers=self._workers,
                chance=chance_for(seed, name),
            )
            for name in (f"client-{number}" for number in range(self.plan.clients))
        ]

    def committed(self, commit: Commit) -> None:
        """Judge what the store has done."""
        self.lives.committed(commit)
        self._attempts.committed(commit)

    def holds(self, host: Host, lease: Lease, until: float) -> None:
        """Note what a worker has learnt of its leases."""
        self._attempts.holds(host, lease, until)

    def report(self) -> Report:
        """Return what has happened."""
        return replace(
            self._report,
            digest=self.history.digest(),
            seconds=self._loop.time(),
            steps=self._loop.steps,
            operations=len(self.lives),
            stops=len(self._stops),
        )

    async def run(self) -> None:
        """Go through the storm, then see that everything comes to its end."""
        clients = [self._begin(client.run()) for client in self._clients]
        keeper = self._begin(self._keep_workers())
        await self._have_disasters(self.plan.storm)
        self._calm_down()
        await asyncio.gather(*clients, *self._stops)
        await self._await_the_end()
        keeper.cancel()
        await asyncio.wait([keeper])
        for worker in self._workers:
            if worker.host.alive:
                await worker.stop(_STOP_SECONDS)
        self.lives.check_everything()

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Create a task that ends the run if it fails."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._on_end)
        return task

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._loop.fail(error)

    async def _keep_workers(self) -> None:
        """Start a worker for each one that has ended."""
        while True:
            self._workers[:] = [worker for worker in self._workers if worker.host.alive]
            while len(self._workers) < self.plan.workers:
                self._start_worker()
            await asyncio.sleep(self._chance.uniform(0.1, 2.0))

    def _start_worker(self) -> None:
        self._report.workers += 1
        name = f"worker-{self._report.workers}"
        chance = chance_for(self._report.seed, name)
        worker = Worker(
            name,
            plan=self.plan,
            loop=self._loop,
            shared=self._shared,
            attempts=self._attempts,
            history=self.history,
            observer=self,
            chance=chance,
        )
        faults = Faults.draw(chance)
        worker.connection.face(faults if self._storm else faults.subsided())
        self._workers.append(worker)
        self.history.note(name, f"starts: {faults}")

    # What befalls workers

    async def _have_disasters(self, seconds: float) -> None:
        disasters = [
            self._crash,
            self._pause,
            self._pause,
            self._cut_off,
            self._cut_off,
            self._stop,
        ]
        while True:
            pause = self._chance.expovariate(1 / self.plan.disasters)
            await asyncio.sleep(min(pause, seconds - self._loop.time()))
            if self._loop.time() >= seconds:
                return
            if victims := [it for it in self._workers if it.ready and not it.host.paused]:
                self._chance.choice(disasters)(self._chance.choice(victims))

    def _crash(self, worker: Worker) -> None:
        worker.crash("out of the blue")

    def _pause(self, worker: Worker) -> None:
        seconds = self.plan.lease * self._chance.choice([0.2, 0.8, 1.1, 2.0])
        self._report.pauses += 1
        self.history.note(worker.host.name, f"stands still for {seconds} s")
        worker.host.pause(self._loop.time())
        self._loop.call_later(seconds, self._resume, worker)

    def _resume(self, worker: Worker) -> None:
        if worker.host.paused:
            self.history.note(worker.host.name, "goes on")
            worker.host.resume(self._loop.time())

    def _cut_off(self, worker: Worker) -> None:
        seconds = self.plan.lease * self._chance.choice([0.2, 0.8, 1.5, 2.5])
        self._report.outages += 1
        self.history.note(worker.host.name, f"does not reach the store for {seconds} s")
        worker.connection.away_until = self._loop.time() + seconds

    def _stop(self, worker: Worker) -> None:
        self._stops.append(self._begin(worker.stop(_STOP_SECONDS)))

    def _calm_down(self) -> None:
        """End everything that makes trouble."""
        self._storm = False
        self.history.note("world", "the storm is over")
        for worker in self._workers:
            self._resume(worker)
            worker.connection.away_until = 0.0
            worker.connection.face(worker.connection.faults.subsided())

    async def _await_the_end(self) -> None:
        """Wait until every operation is done; one of them must always come nearer to it."""
        calm_at = self._loop.time()
        while unfinished := [it.record for it in self.lives if it.completions == 0]:
            await asyncio.sleep(1.0)
            if self._loop.time() - max(self.lives.changed_at, calm_at) > _STUCK_SECONDS:
                name = unfinished[0].name
                raise self.history.violation(
                    "everything accepted becomes done", f"{name} does not", name
                )
