"""Runs operations: claims what is ready, runs it, writes outcomes."""

import asyncio
import logging
import random
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

from outlast.domain.errors import LeaseLostError
from outlast.domain.operation import Claim
from outlast.domain.transitions import DEADLINE_EXCEEDED, Cancelled, Failed, Outcome, Released
from outlast.domain.trial import trial_time
from outlast.engine.attempts import run_attempt
from outlast.engine.children import watch_tasks
from outlast.engine.claiming import Claimer
from outlast.engine.context import ExecutionContext
from outlast.engine.exits import ExitProof
from outlast.engine.identifiers import new_worker
from outlast.engine.journal import log_claimed, log_ended_by_claim
from outlast.engine.leases import LeaseKeeper
from outlast.engine.methods import Method
from outlast.engine.outcome import UNEXPECTED
from outlast.engine.patience import within
from outlast.engine.processes import ProcessPool
from outlast.engine.running import Running, StopReason, Workload
from outlast.engine.settings import EngineSettings
from outlast.engine.writing import OutcomeWriter
from outlast.ports import Change, Changes, Clock, OperationStore

_log = logging.getLogger(__name__)

_WRITING_SECONDS = 2.5
"""How long a worker that stops waits for a store that is away, unless it is hurried."""
_LAST_WRITES_SECONDS = 0.5
"""How long it then waits in any case: a store that is there takes less."""


class Executor:
    """One worker: a loop that claims, a task per operation, and a keeper of the leases.

    `start` and `stop` once each; `stop` gives back what it could not finish.
    """

    def __init__(
        self,
        store: OperationStore,
        clock: Clock,
        methods: Mapping[str, Method],
        settings: EngineSettings,
        *,
        worker: str | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self.worker = worker or new_worker()
        """Identifies this start of this process, and says where it is; never used again."""
        self._store = store
        self._clock = clock
        self._methods = methods
        self._settings = settings
        self._chance = chance or random.Random()  # noqa: S311  # jitter, no secret
        self._workload = Workload(methods, settings.concurrency)
        self.leases = LeaseKeeper(store, clock, self._workload, settings.lease)
        """Keeps the leases of what runs here."""
        self._claimer = Claimer(
            store,
            clock,
            methods,
            settings,
            worker=self.worker,
            workload=self._workload,
            leases=self.leases,
            chance=self._chance,
        )
        self._writer = OutcomeWriter(store, clock)
        self._processes = ProcessPool(max_bytes=settings.max_process_bytes)
        self._giving_back = False
        self._hurried = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._abandoning: set[asyncio.Task[None]] = set()

    @property
    def refused_writes(self) -> int:
        """How many writes were refused because the lease was lost, renewals included."""
        return self._writer.refused + self.leases.refused

    @property
    def given_back(self) -> int:
        """How many operations were given back unfinished, as `stop` does."""
        return self._writer.given_back

    @property
    def running(self) -> int:
        """How many handlers are running."""
        return sum(1 for _ in self._workload)

    def start(self) -> Sequence[asyncio.Task[None]]:
        """Begin to claim and run operations; return the tasks that must not end."""
        watch_tasks(asyncio.get_running_loop())
        self._unsubscribe = self._store.changes.subscribe(self._on_changes)
        self._loops = [
            asyncio.create_task(self._claimer.run(self._launch), name="outlast-claim"),
            asyncio.create_task(self.leases.renew_forever(), name="outlast-renew"),
            asyncio.create_task(self.leases.fence_forever(), name="outlast-fence"),
        ]
        return tuple(self._loops)

    async def drain(self) -> None:
        """Claim nothing more; return when everything in hand has ended."""
        self._claimer.stop()
        self._writer.stopping = True
        if self._loops:
            await asyncio.wait(self._loops[:1])
        await self._workload.idle.wait()

    async def stop(self) -> None:
        """Give back what is still running, its attempt not counted, and end.

        Handlers get CancelledError and `cancel_grace` to clean up; those that do not
        stop are abandoned. A store that is away is given a few seconds more: what it has
        not taken by then is left to its leases. Idempotent.
        """
        self._giving_back = True
        self._claimer.stop()
        self._writer.stopping = True
        if not self._loops:
            return
        claiming, *keeping = self._loops
        for running in self._workload:
            running.stop(StopReason.SHUTDOWN)
        await self._unless_hurried(self.drain(), self._settings.cancel_grace.total_seconds())
        for task in keeping:
            task.cancel()
        await asyncio.wait(keeping)
        for running in self._workload:
            self._abandon(running, Released())
        await self._unless_hurried(self._all_written(claiming), _WRITING_SECONDS)
        with suppress(TimeoutError):
            await within(self._clock, lambda: self._all_written(claiming), _LAST_WRITES_SECONDS)
        self._writer.giving_up = True
        last = [claiming, *self._writing()]
        for task in last:
            task.cancel()
        await asyncio.wait(last)
        await self._processes.close()
        for running in self._workload:
            running.context.threads.close()
        self._unsubscribe()
        self._loops = []

    def hurry(self) -> None:
        """Give handlers no time to clean up when `stop` tells them to, nor if it has."""
        self._hurried.set()

    def _on_changes(self, changes: Changes) -> None:
        if changes is None:
            self.leases.renew_now()
        else:
            for change in changes:
                self._on_change(change)
        self._claimer.on_changes(changes)

    def _on_change(self, change: Change) -> None:
        if change.state.done:
            if change.record is not None and not self._writer.writes(change.name):
                log_ended_by_claim(change.record)
        elif change.cancel_requested and (running := self._workload.named(change.name)):
            running.stop(StopReason.CANCEL)

    # Running

    def _launch(self, claim: Claim, asked_at: float) -> None:
        operation = claim.operation
        log_claimed(operation)
        method = self._methods[operation.method]
        context = ExecutionContext(
            claim,
            self._store,
            self._clock,
            self._settings,
            processes=self._processes,
            chance=self._chance,
        )
        lease = self._settings.lease
        trial = trial_time(operation.interruptions, lease)
        running = Running(
            claim,
            method,
            context,
            self._on_stop,
            lease_until=asked_at + lease.total_seconds(),
            # From now, when the store's record of the start is older: so that no trial is
            # taken to be over here of which the record says that it is not.
            trial_until=self._clock.monotonic() + (lease + trial).total_seconds() if trial else 0.0,
        )
        context.on_refused = lambda: self._writer.on_refused(running)
        if (earlier := self._workload.named(operation.name)) is not None:
            # Its lease ran out unnoticed, as it does when the time of day jumps forward.
            earlier.stop(StopReason.LEASE_LOST)
        self._workload.add(running)
        running.task = asyncio.create_task(
            ExitProof(self._work(running)), name=f"outlast:{operation.name}"
        )
        if operation.deadline is not None:
            left = (operation.deadline - self._clock.now()).total_seconds()
            running.timers.append(self._clock.call_later(left, lambda: self._on_deadline(running)))
        if self._giving_back:
            running.stop(StopReason.SHUTDOWN)
        self.leases.fence(running)  # the store may have taken that long to answer

    async def _work(self, running: Running) -> None:
        """Run a handler to its end and write down what came of it."""
        try:
            try:
                outcome = await run_attempt(running, self._settings, self._chance)
            except LeaseLostError:
                outcome = None
            except (asyncio.CancelledError, GeneratorExit):  # the executor or the loop ends
                raise
            except BaseException:  # noqa: BLE001  # ours, or a retry policy's: it would run for ever
                _log.exception("the attempt of operation %s ended badly", running.lease.name)
                outcome = None if running.lease_lost else Failed(UNEXPECTED)
            await self._absorb_cancellation(running)
            running.settled = True
            running.context.close()
            if outcome is not None and not running.abandoned:
                await self._writer.write(running, outcome)
        finally:
            self._end(running)

    def _end(self, running: Running) -> None:
        """Let go of an attempt that is over; its slot is free when its threads have ended."""
        on_trial, threads = running.on_trial, running.context.threads
        running.end_timers()
        threads.close()
        self._workload.end(running)
        if threads.busy:
            pause = self._settings.cancel_grace.total_seconds()
            abandon = partial(self._abandon_threads, running)
            running.timers.append(self._clock.call_later(pause, abandon))
        threads.when_ended(partial(self._free_slot, running))
        if on_trial:
            self._claimer.on_slot_freed(after_trial=True)

    def _free_slot(self, running: Running) -> None:
        running.end_timers()
        self._workload.free_slot(running)
        self._claimer.on_slot_freed(after_trial=False)

    async def _absorb_cancellation(self, running: Running) -> None:
        """Take what a handler that cancels itself and returns has left for the next await."""
        if running.task is not None and running.task.cancelling():
            with suppress(asyncio.CancelledError):
                await self._clock.sleep(0)

    # Stopping handlers

    def _on_stop(self, running: Running) -> None:
        """Do not rely on a handler that was told to stop."""
        if running.stop_reason is StopReason.CANCEL:
            self._abandon_after(self._settings.cancel_limit, running, Cancelled())
        elif running.lease_lost:
            self._abandon_after(self._settings.cancel_grace, running, Released())

    def _on_deadline(self, running: Running) -> None:
        running.stop(StopReason.DEADLINE)
        self._abandon_after(self._settings.cancel_grace, running, Failed(DEADLINE_EXCEEDED))

    def _abandon_after(self, pause: timedelta, running: Running, outcome: Outcome) -> None:
        running.timers.append(
            self._clock.call_later(pause.total_seconds(), lambda: self._abandon(running, outcome))
        )

    def _abandon(self, running: Running, outcome: Outcome) -> None:
        """End the operation of a handler that did not stop in time, without it.

        It keeps its slot: it still has its memory, its threads and whatever else the
        limits are there to ration.
        """
        if running.settled or running.abandoned:
            return
        running.abandoned = True
        running.context.close()
        _log.error("the handler of operation %s does not stop; it is abandoned", running.lease.name)
        if not self._giving_back:
            self._tell_if_stuck(running.method)
        if running.lease_lost:
            return
        task = asyncio.create_task(
            self._writer.write(running, outcome), name=f"outlast-abandon:{running.lease.name}"
        )
        self._abandoning.add(task)
        task.add_done_callback(self._abandoning.discard)

    def _abandon_threads(self, running: Running) -> None:
        """Tell of threads that go on though their attempt is over; they keep its slot."""
        if running.abandoned or self._giving_back:
            return
        running.abandoned = True
        _log.error("threads of operation %s do not stop; they keep its slot", running.lease.name)
        self._tell_if_stuck(running.method)

    def _tell_if_stuck(self, method: Method) -> None:
        """Say so when what was abandoned has taken the last slot: nothing else would."""
        if self._workload.abandoned() >= self._settings.concurrency:
            where = ""
        elif self._workload.abandoned(method) == method.concurrency:
            where = f" of {method.name}"
        else:
            return
        _log.critical(
            "every slot%s is held by a handler that does not stop; "
            "what needs one waits until this process is started anew",
            where,
        )

    def _writing(self) -> Sequence[asyncio.Task[None]]:
        """Return the tasks that do nothing any more but to write an outcome."""
        settled = [it.task for it in self._workload if it.settled and it.task is not None]
        return [*settled, *self._abandoning]

    async def _all_written(self, claiming: asyncio.Task[None]) -> None:
        """Return when every outcome is written, also of what a claim under way brings."""
        await asyncio.wait([claiming])
        while writing := self._writing():
            await asyncio.wait(writing)

    async def _unless_hurried(self, work: Coroutine[Any, Any, None], seconds: float) -> None:
        """Return when something is done, after so many seconds, or when hurried."""
        over = asyncio.Event()
        timer = self._clock.call_later(seconds, over.set)
        waits = [
            asyncio.create_task(work, name="outlast-stopping"),
            asyncio.create_task(over.wait(), name="outlast-grace"),
            asyncio.create_task(self._hurried.wait(), name="outlast-hurry"),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            for wait in waits:
                wait.cancel()
            await asyncio.wait(waits)
