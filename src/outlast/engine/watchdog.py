"""Watches the event loop from outside, and keeps its leases while it stands still."""

import asyncio
import logging
import sys
import threading
import traceback

from outlast.domain.errors import OutlastError
from outlast.engine.leases import LeaseKeeper
from outlast.engine.settings import EngineSettings
from outlast.ports import Clock

_log = logging.getLogger(__name__)

_SHOWN_FRAMES = 4
_LEAST_PATIENCE_SECONDS = 0.05
"""A loop that is only busy answers later than that now and then."""
_TASK_PREFIX = "outlast:"


class LoopWatchdog:
    """A thread that asks the event loop for a sign of life.

    A handler that computes, or waits without await, stops everything on its loop, the
    renewal of leases too. Then the watchdog says which operation it is and where in its
    code, and renews the leases itself, for `max_loop_block` at most: from then on others
    may take the work over. It must be started and stopped on the loop that it watches.
    """

    def __init__(self, leases: LeaseKeeper, clock: Clock, settings: EngineSettings) -> None:
        self.blocks = 0
        """How often the loop has stood still."""
        lease = settings.lease.total_seconds()
        self._leases = leases
        self._clock = clock
        self._patience_seconds = max(_LEAST_PATIENCE_SECONDS, min(1.0, lease / 6))
        self._interval_seconds = max(_LEAST_PATIENCE_SECONDS / 2, min(0.25, lease / 12))
        self._renewal_seconds = lease / 4
        self._longest_seconds = settings.max_loop_block.total_seconds()
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._sign = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="outlast-watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more. Idempotent."""
        self._stopping.set()

    def _watch(self) -> None:
        while not self._stopping.wait(self._interval_seconds):
            self._sign.clear()
            began = self._clock.monotonic()
            try:
                self._loop.call_soon_threadsafe(self._sign.set)
            except RuntimeError:  # the loop is closed
                return
            if not self._sign.wait(self._patience_seconds):
                self._on_block(began)

    def _on_block(self, began: float) -> None:
        """Stand in for the loop until it turns again, or for as long as is allowed."""
        self.blocks += 1
        _log.error("the event loop stands still%s", self._culprit())
        while not self._stopping.is_set():
            stood = self._clock.monotonic() - began
            if stood < self._longest_seconds:
                self._renew()
            if self._sign.wait(self._renewal_seconds):
                stood = self._clock.monotonic() - began
                _log.warning("the event loop goes on; it stood still for %.1f s", stood)
                return

    def _renew(self) -> None:
        try:
            self._leases.renew_from_thread()
        except OutlastError as error:
            _log.warning("leases are not renewed while the event loop stands still: %s", error)
        except Exception:  # noqa: BLE001  # a store's bug must not end the thread
            _log.exception("renewing leases failed")

    def _culprit(self) -> str:
        """Say what the loop is running, and where in the code that is."""
        task = asyncio.current_task(self._loop)
        name = task.get_name() if task is not None else ""
        if name.startswith(_TASK_PREFIX):
            what = f"in the handler of operation {name.removeprefix(_TASK_PREFIX)}"
        else:
            what = f"in task {name!r}" if name else "outside of every task"
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001  # its documented use
        where = traceback.format_stack(frame)[-_SHOWN_FRAMES:] if frame is not None else []
        return f", {what}; it must not block, see run_in_thread and run_in_process:\n" + "".join(
            where
        )
