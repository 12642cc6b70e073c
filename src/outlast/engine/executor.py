"""Runs operations: claims what is ready, keeps leases, writes outcomes."""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from uuid import uuid4

from outlast.domain.errors import LeaseLostError, OutlastError, StoreUnavailableError
from outlast.domain.operation import Claim, Lease, State
from outlast.domain.status import Code, Payload, Status
from outlast.domain.transitions import (
    DEADLINE_EXCEEDED,
    Cancelled,
    Failed,
    Outcome,
    Released,
    Succeeded,
)
from outlast.engine.context import ExecutionContext
from outlast.engine.methods import Method
from outlast.engine.outcome import UNEXPECTED, AttemptFailedError, bounded, failure
from outlast.engine.running import Running, StopReason
from outlast.engine.settings import EngineSettings
from outlast.ports import Changes, Claims, Clock, OperationStore

_log = logging.getLogger(__name__)

_RETRY_PAUSE_SECONDS = 0.25


class Executor:
    """One worker: a loop that claims, a task per operation, a loop that renews leases.

    `start` and `stop` once each; `stop` gives back what it could not finish.
    """

    def __init__(
        self,
        store: OperationStore,
        clock: Clock,
        methods: Mapping[str, Method],
        settings: EngineSettings,
        *,
        chance: random.Random | None = None,
    ) -> None:
        self.worker = str(uuid4())
        """Identifies this start of this process; never used again."""
        self.refused_writes = 0
        """How many writes were refused because another worker had taken over."""
        self._store = store
        self._clock = clock
        self._methods = methods
        self._settings = settings
        self._chance = chance or random.Random()  # noqa: S311  # jitter, no secret
        self._running: dict[str, Running] = {}
        self._in_method: Counter[str] = Counter()
        self._more = False
        self._wake = asyncio.Event()
        self._renew_now = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False
        self._loops: list[asyncio.Task[None]] = []
        self._abandoning: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> int:
        """How many handlers are running."""
        return len(self._running)

    def start(self) -> Sequence[asyncio.Task[None]]:
        """Begin to claim and run operations; return the tasks that must not end."""
        self._unsubscribe = self._store.changes.subscribe(self._on_changes)
        self._loops = [
            asyncio.create_task(self._claim_forever(), name="outlast-claim"),
            asyncio.create_task(self._renew_forever(), name="outlast-renew"),
        ]
        return tuple(self._loops)

    async def drain(self) -> None:
        """Claim nothing more; return when everything in hand has ended."""
        self._stopping = True
        self._wake.set()
        if self._loops:
            await asyncio.wait(self._loops[:1])
        await self._idle.wait()

    async def stop(self) -> None:
        """Give back what is still running, its attempt not counted, and end.

        Handlers get CancelledError and `cancel_grace` to clean up; those that do not
        stop are abandoned. Idempotent.
        """
        self._stopping = True
        self._wake.set()
        if not self._loops:
            return
        claiming, renewing = self._loops
        await asyncio.wait([claiming])
        for running in list(self._running.values()):
            running.stop(StopReason.SHUTDOWN)
        await self._wait_idle(self._settings.cancel_grace.total_seconds())
        for running in list(self._running.values()):
            await self._abandon(running, Released())
        renewing.cancel()
        await asyncio.wait([renewing])
        self._unsubscribe()
        self._loops = []

    # Claiming

    async def _claim_forever(self) -> None:
        while not self._stopping:
            self._wake.clear()
            pause = await self._claim_once()
            timer = self._clock.call_later(pause, self._wake.set)
            await self._wake.wait()
            timer.cancel()

    async def _claim_once(self) -> float:
        """Claim up to the free slots; return for how long there is nothing to claim."""
        slots = self._free_slots()
        free = self._settings.concurrency - len(self._running)
        poll = self._settings.poll_interval.total_seconds() * self._chance.uniform(0.5, 1)
        if free <= 0 or not slots:
            self._more = True
            return poll
        asked_at = self._clock.monotonic()
        try:
            claims = await self._store.claim(self.worker, slots, free, self._settings.lease)
        except StoreUnavailableError as error:
            _log.warning("no work can be claimed, trying again: %s", error)
            return _RETRY_PAUSE_SECONDS
        except Exception:  # noqa: BLE001  # a store's bug must not end the loop
            _log.exception("claiming failed, trying again")
            return poll
        for claim in claims.claims:
            self._launch(claim, asked_at)
        return self._pause_after(claims, slots, poll)

    def _pause_after(self, claims: Claims, slots: Mapping[str, int], poll: float) -> float:
        taken = Counter(claim.operation.method for claim in claims.claims)
        full = len(self._running) >= self._settings.concurrency
        self._more = full or any(taken[name] >= slots.get(name, 0) for name in self._methods)
        if claims.next_ready_time is None:
            return poll
        until_ready = (claims.next_ready_time - self._clock.now()).total_seconds()
        if until_ready > 0:
            return min(until_ready, poll)
        if claims.claims and not full:
            self._wake.set()
        return min(_RETRY_PAUSE_SECONDS, poll)

    def _free_slots(self) -> Mapping[str, int]:
        """Return how many more operations of each method may run, for those that may."""
        free = self._settings.concurrency - len(self._running)
        slots: dict[str, int] = {}
        for name, method in self._methods.items():
            count = free
            if method.concurrency is not None:
                count = min(free, method.concurrency - self._in_method[name])
            if count > 0:
                slots[name] = count
        return slots

    def _on_changes(self, changes: Changes) -> None:
        if changes is None:
            self._wake.set()
            self._renew_now.set()
            return
        for change in changes:
            if change.state is State.PENDING:
                if change.method in self._methods:
                    self._wake.set()
            elif change.cancel_requested and (running := self._running.get(change.name)):
                running.stop(StopReason.CANCEL)

    # Running

    def _launch(self, claim: Claim, asked_at: float) -> None:
        operation = claim.operation
        method = self._methods[operation.method]
        context = ExecutionContext(claim, self._store, self._clock, self._settings)
        lease_until = asked_at + self._settings.lease.total_seconds()
        running = Running(claim, method, context, lease_until)
        if (earlier := self._running.get(operation.name)) is not None:
            # Its lease ran out unnoticed, as it does when the time of day jumps forward.
            earlier.stop(StopReason.LEASE_LOST)
        self._running[operation.name] = running
        self._in_method[operation.method] += 1
        self._idle.clear()
        running.task = asyncio.create_task(self._work(running), name=f"outlast:{operation.name}")
        if operation.deadline is not None:
            left = (operation.deadline - self._clock.now()).total_seconds()
            running.timers.append(self._clock.call_later(left, lambda: self._on_deadline(running)))

    async def _work(self, running: Running) -> None:
        """Run a handler to its end and write down what came of it."""
        try:
            outcome = await self._outcome(running)
            running.settled = True
            if outcome is not None and not running.abandoned:
                await self._write(running, outcome)
        finally:
            running.end_timers()
            self._forget(running)

    def _forget(self, running: Running) -> None:
        operation = running.claim.operation
        self._in_method[operation.method] -= 1
        if self._running.get(operation.name) is running:
            del self._running[operation.name]
        if not self._running:
            self._idle.set()
        if self._more:
            self._wake.set()

    async def _outcome(self, running: Running) -> Outcome | None:
        """Run the handler; return what is to be written, None if that is not ours to say."""
        try:
            response = await running.method.run(running.claim.request, running.context)
            outcome = self._checked(response)
        except AttemptFailedError as error:
            if running.stop_reason is StopReason.LEASE_LOST:
                return None
            status = bounded(error.status, self._settings.max_error_bytes)
            return self._failure(running, AttemptFailedError(status, error.retry_delay))
        except LeaseLostError:
            self._count_refused(running)
            return None
        except BaseException as error:  # noqa: BLE001  # SystemExit must not end the server
            return self._outcome_of_stop(running, error)
        return None if running.stop_reason is StopReason.LEASE_LOST else outcome

    def _outcome_of_stop(self, running: Running, error: BaseException) -> Outcome | None:
        """Return what an unexpected end means, which depends on whether we asked for one."""
        match running.stop_reason:
            case StopReason.CANCEL:
                return Cancelled()
            case StopReason.DEADLINE:
                return Failed(DEADLINE_EXCEEDED)
            case StopReason.SHUTDOWN:
                return Released()
            case StopReason.LEASE_LOST:
                return None
            case None:
                _log.error(
                    "attempt %d of operation %s failed",
                    running.claim.operation.attempt,
                    running.claim.operation.name,
                    exc_info=error,
                )
                return self._failure(running, error)

    def _failure(self, running: Running, error: BaseException) -> Outcome:
        operation, policy = running.claim.operation, running.method.retry
        return failure(operation, policy, error, self._chance.random())

    def _checked(self, response: Payload) -> Outcome:
        size, limit = len(response.value), self._settings.max_response_bytes
        if size <= limit:
            return Succeeded(response)
        message = f"the response has {size} bytes; the limit is {limit}"
        return Failed(Status(Code.RESOURCE_EXHAUSTED, message, reason="RESPONSE_TOO_LARGE"))

    async def _write(self, running: Running, outcome: Outcome) -> None:
        """Write an outcome, however long the store is away; a lost lease ends that too."""
        pause = _RETRY_PAUSE_SECONDS
        while True:
            try:
                await self._store.finish(running.lease, outcome)
            except LeaseLostError:
                self._count_refused(running)
            except StoreUnavailableError as error:
                if self._stopping and self._clock.monotonic() >= running.lease_until:
                    return
                _log.warning("%s is not written yet, trying again: %s", running.lease.name, error)
                await self._clock.sleep(pause)
                pause = min(2 * pause, 5.0)
                continue
            except Exception:  # noqa: BLE001  # as above
                _log.exception("the outcome of operation %s cannot be stored", running.lease.name)
                if isinstance(outcome, Failed) and outcome.error == UNEXPECTED:
                    return
                outcome = Failed(UNEXPECTED)
                continue
            return

    def _count_refused(self, running: Running) -> None:
        self.refused_writes += 1
        _log.warning(
            "a write for operation %s was refused: epoch %d is over",
            running.lease.name,
            running.lease.epoch,
        )

    # Stopping handlers

    def _on_deadline(self, running: Running) -> None:
        if running.stop(StopReason.DEADLINE):
            self._abandon_later(running, Failed(DEADLINE_EXCEEDED))

    def _abandon_later(self, running: Running, outcome: Outcome) -> None:
        """If a handler does not stop in time, end its operation without it."""

        def abandon() -> None:
            task = asyncio.create_task(
                self._abandon(running, outcome), name=f"outlast-abandon:{running.lease.name}"
            )
            self._abandoning.add(task)
            task.add_done_callback(self._abandoning.discard)

        grace = self._settings.cancel_grace.total_seconds()
        running.timers.append(self._clock.call_later(grace, abandon))

    async def _abandon(self, running: Running, outcome: Outcome) -> None:
        if running.settled or running.abandoned:
            return
        running.abandoned = True
        _log.error("the handler of operation %s does not stop; it is abandoned", running.lease.name)
        await self._write(running, outcome)

    async def _wait_idle(self, seconds: float) -> None:
        """Return when nothing runs any more, or after so many seconds."""
        over = asyncio.Event()
        timer = self._clock.call_later(seconds, over.set)
        waits = [asyncio.create_task(self._idle.wait()), asyncio.create_task(over.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            for wait in waits:
                wait.cancel()
            await asyncio.wait(waits)

    # Leases

    async def _renew_forever(self) -> None:
        interval = self._settings.lease.total_seconds() / 3
        pause = interval
        while True:
            timer = self._clock.call_later(pause, self._renew_now.set)
            await self._renew_now.wait()
            timer.cancel()
            self._renew_now.clear()
            pause = interval if await self._renew_once() else interval / 4
            self._give_up_expired(margin=interval / 2)

    async def _renew_once(self) -> bool:
        """Renew everything in hand; return whether the store could be asked."""
        held = {
            running.lease: running for running in self._running.values() if not running.abandoned
        }
        if not held:
            return True
        asked_at = self._clock.monotonic()
        try:
            renewal = await self._store.renew(list(held), self._settings.lease)
        except OutlastError as error:
            _log.warning("leases are not renewed, trying again: %s", error)
            return False
        except Exception:  # noqa: BLE001  # as above
            _log.exception("renewing leases failed, trying again")
            return False
        until = asked_at + self._settings.lease.total_seconds()
        for lease, running in held.items():
            self._on_renewal(running, lease, renewal.lost, renewal.cancel_requested, until)
        return True

    def _on_renewal(
        self,
        running: Running,
        lease: Lease,
        lost: frozenset[Lease],
        cancelled: frozenset[Lease],
        until: float,
    ) -> None:
        if lease in lost:
            if running.stop(StopReason.LEASE_LOST):
                _log.warning("operation %s was taken over; it is stopped here", lease.name)
            return
        running.lease_until = until
        if lease in cancelled:
            running.stop(StopReason.CANCEL)

    def _give_up_expired(self, margin: float) -> None:
        """Stop what another worker may soon take: a lease that was not renewed in time."""
        now = self._clock.monotonic()
        for running in list(self._running.values()):
            if now >= running.lease_until - margin and running.stop(StopReason.LEASE_LOST):
                _log.error("the lease of operation %s runs out; it is stopped", running.lease.name)
