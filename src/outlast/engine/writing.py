"""Writes down what came of attempts."""

import asyncio
import logging

from outlast.domain.errors import LeaseLostError, StoreUnavailableError
from outlast.domain.transitions import Failed, Outcome, Released
from outlast.engine.journal import log_finished
from outlast.engine.outcome import UNEXPECTED
from outlast.engine.running import Running, StopReason
from outlast.ports import Clock, OperationStore

_log = logging.getLogger(__name__)

_RETRY_PAUSE_SECONDS = 0.25
_LONGEST_RETRY_PAUSE_SECONDS = 1.0


class OutcomeWriter:
    """Writes outcomes, however long the store is away; a lost lease ends that too."""

    def __init__(self, store: OperationStore, clock: Clock) -> None:
        self.refused = 0
        """How many writes were refused because another worker had taken over."""
        self.given_back = 0
        """How many operations were given back, to be run by another worker."""
        self.stopping = False
        """Whether to give up what is not written when its lease ends."""
        self.giving_up = False
        """Whether who is cancelled is to write nothing more."""
        self._store = store
        self._clock = clock
        self._writing: set[str] = set()

    def writes(self, name: str) -> bool:
        """Whether an outcome of an operation is being written."""
        return name in self._writing

    async def write(self, running: Running, outcome: Outcome) -> None:
        """Write an outcome; return when that is done, or can no longer be done."""
        name = running.lease.name
        self._writing.add(name)
        in_doubt = False
        try:
            while True:
                try:
                    return await self._persist(running, outcome, in_doubt=in_doubt)
                except asyncio.CancelledError:
                    if self.giving_up:
                        _log.warning(
                            "the outcome of %s cannot be written; it is left to its lease", name
                        )
                        raise
                    in_doubt = True
                    _absorb_cancellation()
        finally:
            self._writing.discard(name)

    def on_refused(self, running: Running) -> None:
        """Count a refused write, and stop the handler, which may not have noticed."""
        self.refused += 1
        if not running.refused:
            _log.warning(
                "a write for operation %s was refused: epoch %d is over",
                running.lease.name,
                running.lease.epoch,
            )
        running.refused = True
        running.stop(StopReason.LEASE_LOST)

    async def _persist(self, running: Running, outcome: Outcome, *, in_doubt: bool) -> None:
        name = running.lease.name
        pause = _RETRY_PAUSE_SECONDS
        while True:
            try:
                log_finished(await self._store.finish(running.lease, outcome), outcome)
                self.given_back += isinstance(outcome, Released)
            except LeaseLostError:
                if not in_doubt:
                    self.on_refused(running)
            except StoreUnavailableError as error:
                if self.stopping and self._clock.monotonic() >= running.lease_until:
                    return
                if not in_doubt:
                    _log.warning("the outcome of %s is not written yet: %s", name, error)
                in_doubt = True
                await self._clock.sleep(pause)
                pause = min(2 * pause, _LONGEST_RETRY_PAUSE_SECONDS)
                continue
            except Exception:  # noqa: BLE001  # a store's bug, which must not end the task
                _log.exception("the outcome of operation %s cannot be stored", name)
                if isinstance(outcome, Released) or outcome == Failed(UNEXPECTED):
                    return
                outcome = Failed(UNEXPECTED)
                continue
            return


def _absorb_cancellation() -> None:
    """Go on: it was the handler's own task, and what it has left behind still cancels it."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
