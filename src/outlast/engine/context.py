"""What running work can do: report, record steps, leave the event loop."""

import math
import random
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

from outlast.domain.errors import DuplicateStepError, LeaseLostError, PayloadTooLargeError
from outlast.domain.operation import Claim, Operation, Progress
from outlast.domain.status import Payload
from outlast.engine.journal import log_step_failed
from outlast.engine.outcome import retry_pause
from outlast.engine.patience import absorb
from outlast.engine.processes import ProcessPool
from outlast.engine.retry import RetryPolicy
from outlast.engine.settings import EngineSettings
from outlast.engine.threads import Threads
from outlast.ports import Clock, OperationStore

T = TypeVar("T")


class ExecutionContext:
    """One attempt's hold on its operation. Every write carries the attempt's lease."""

    def __init__(
        self,
        claim: Claim,
        store: OperationStore,
        clock: Clock,
        settings: EngineSettings,
        *,
        processes: ProcessPool,
        chance: random.Random,
    ) -> None:
        self.operation: Operation = claim.operation
        self.cancel_requested = False
        self.lease_until = math.inf
        """Until when the lease holds as far as this process knows, in monotonic seconds."""
        self.on_refused: Callable[[], None] = lambda: None
        """Called when a write is refused because the lease is lost, before that is raised."""
        self.threads = Threads()
        """What of this attempt runs in threads."""
        self._lease = claim.lease
        self._store = store
        self._clock = clock
        self._settings = settings
        self._processes = processes
        self._chance = chance
        self._steps: dict[str, Payload] | None = None
        self._used_keys: set[str] = set()
        self._closed = False

    def close(self) -> None:
        """Refuse what is written from now on: the attempt is over, its outcome is on its way."""
        self._closed = True

    async def report(self, progress: Progress | None, metadata: Payload) -> None:
        """Record progress and the service's own metadata, durably.

        Raises LeaseLostError when the operation is no longer this worker's, and
        PayloadTooLargeError.
        """
        size, limit = len(metadata.value), self._settings.max_metadata_bytes
        if progress is not None:
            text = progress.stage + progress.message
            size += len(text.encode(errors="surrogatepass"))
        if size > limit:
            raise PayloadTooLargeError("metadata", size, limit)
        self._require_open()
        await self._patiently(lambda: self._store.record_progress(self._lease, progress, metadata))

    async def recorded_step(self, key: str) -> Payload | None:
        """Begin a step; return its result if an earlier attempt recorded one.

        Raises DuplicateStepError if this attempt has used the key already, and
        LeaseLostError if another worker may be running the step by now.
        """
        if key in self._used_keys:
            raise DuplicateStepError(self.operation.name, key)
        self._used_keys.add(key)
        if self._steps is None:
            self._steps = await self._earlier_steps()
        recorded = self._steps.get(key)
        if recorded is None:
            self._require_lease()
        return recorded

    async def record_step(self, key: str, result: Payload) -> None:
        """Record the result of a step, durably. Raises as `report` does."""
        limit = self._settings.max_step_bytes
        if len(result.value) > limit:
            raise PayloadTooLargeError(f"the result of step {key!r}", len(result.value), limit)
        self._require_open()
        await self._patiently(lambda: self._store.record_step(self._lease, key, result))

    async def try_step_again(
        self, key: str, policy: RetryPolicy, tries: int, error: Exception
    ) -> bool:
        """Wait before a failed step is tried again; return False at once if it is not to be.

        How often it was tried is not recorded: another attempt begins to count anew.
        """
        if tries >= policy.max_attempts:
            return False
        pause = retry_pause(policy, tries, error, self._chance.random())
        if pause is None:
            return False
        log_step_failed(self.operation, key, error, pause, f"try {tries} of {policy.max_attempts}")
        await self._clock.sleep(pause.total_seconds())
        self._require_lease()
        return True

    def estimate_end(self, completed: int, total: int) -> datetime | None:
        """Return when the work will end at the pace of this attempt so far, if that is known."""
        began = self.operation.attempt_start_time
        if began is None or not 0 < completed < total:
            return None
        now = self._clock.now()
        try:
            return now + (now - began) * ((total - completed) / completed)
        except OverflowError:  # beyond the calendar
            return None

    async def run_in_thread(self, function: Callable[..., T], *args: object) -> T:
        """Run a function in a thread. It cannot be stopped; its result is dropped on cancel.

        Raises LeaseLostError when the attempt is over.
        """
        if self.threads.closed:
            raise LeaseLostError(self.operation.name, self._lease.epoch)
        return await self.threads.run(function, *args)

    async def run_in_process(self, function: Callable[..., T], *args: object) -> T:
        """Run a function in a process, which is killed when this attempt is cancelled."""
        return await self._processes.run(function, *args)

    def _require_open(self) -> None:
        """Raise LeaseLostError if the attempt is over."""
        if self._closed:
            self.on_refused()
            raise LeaseLostError(self.operation.name, self._lease.epoch)

    def _require_lease(self) -> None:
        """Raise LeaseLostError if time has run out unnoticed, as it does for a frozen process."""
        self._require_open()
        if self._clock.monotonic() >= self.lease_until:
            self.on_refused()
            raise LeaseLostError(self.operation.name, self._lease.epoch)

    async def _earlier_steps(self) -> dict[str, Payload]:
        """Read what earlier attempts recorded; a first attempt has none."""
        operation = self.operation
        if operation.lease_epoch == 1 and not operation.retried_from:
            return {}
        return dict(await self._patiently(lambda: self._store.steps(operation.name)))

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        try:
            return await absorb(self._clock, call, self._settings.lease.total_seconds())
        except LeaseLostError:
            self.on_refused()
            raise
