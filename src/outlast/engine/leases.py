"""Keeps the leases of what runs, and stops what has lost its own."""

import asyncio
import logging
from datetime import timedelta

from outlast.domain.errors import OutlastError
from outlast.domain.operation import Lease
from outlast.engine.jumps import JumpWatch
from outlast.engine.running import Running, StopReason, Workload
from outlast.outages import Outage
from outlast.ports import Clock, OperationStore, Renewal

_log = logging.getLogger(__name__)


class LeaseKeeper:
    """Renews every lease in one call, three times in the length of a lease.

    What could not be renewed is stopped before another worker may take it, whether
    the store cannot answer, or does not answer at all.
    """

    def __init__(
        self, store: OperationStore, clock: Clock, workload: Workload, lease: timedelta
    ) -> None:
        self.failing = False
        """Whether leases cannot be renewed; who cannot keep leases must not take any."""
        self.refused = 0
        """How many leases a renewal has found to be lost."""
        self._store = store
        self._clock = clock
        self._workload = workload
        self._lease = lease
        self._interval_seconds = lease.total_seconds() / 3
        self._tick_seconds = self._interval_seconds / 4
        self._margin_seconds = self._interval_seconds / 2
        self._outage = Outage(
            _log, clock.monotonic, "leases are not renewed", "leases are renewed again"
        )
        self._now = asyncio.Event()
        self._locked: frozenset[Lease] = frozenset()
        self._jumps = JumpWatch(clock, lease)

    @property
    def distrust(self) -> timedelta:
        """By how much the time of day has jumped ahead of late; see `JumpWatch`."""
        return self._jumps.distrust

    def renew_now(self) -> None:
        """Renew without waiting for the next turn: that tells what became of the leases."""
        self._now.set()

    async def renew_forever(self) -> None:
        """Renew in turns, and more often while it fails."""
        while True:
            pause = self._tick_seconds if self.failing else self._interval_seconds
            timer = self._clock.call_later(pause, self._now.set)
            await self._now.wait()
            timer.cancel()
            self._now.clear()
            self.failing = not await self._renew()

    async def renew_after_jump(self) -> None:
        """Renew at once if the time of day has jumped ahead.

        To the next claim every lease would seem lost, also of what runs here and now.
        """
        if jump := self._jumps.look():
            _log.warning("the time of day jumped ahead by %.0f s; leases are renewed", jump)
            self.failing = not await self._renew()

    async def fence_forever(self) -> None:
        """Stop what another worker may soon take; also while a renewal is under way."""
        while True:
            await self._clock.sleep(self._tick_seconds)
            await self.renew_after_jump()
            for running in self._workload:
                self.fence(running)

    def fence(self, running: Running) -> None:
        """Stop an attempt if another worker may soon take its operation."""
        ends_at = running.lease_until - self._margin_seconds
        if running.keeps_lease and self._clock.monotonic() >= ends_at:
            self.failing = True
            if running.stop(StopReason.LEASE_LOST):
                _log.error("the lease of operation %s runs out; it is stopped", running.lease.name)

    def renew_from_thread(self) -> None:
        """Renew everything in hand while the event loop stands still; raise if that fails.

        What is lost or to be cancelled is told when the loop renews again.
        """
        held = [running for running in self._workload if running.keeps_lease]
        if not held:
            return
        asked_at = self._clock.monotonic()
        renewal = self._store.renew_from_thread([it.lease for it in held], self._lease)
        for running in held:
            if running.lease not in renewal.lost | renewal.locked:
                running.lease_until = asked_at + self._lease.total_seconds()

    async def _renew(self) -> bool:
        """Renew everything in hand; return whether the store could be asked."""
        held = [running for running in self._workload if running.keeps_lease]
        if not held and not self.failing:
            return True
        asked_at = self._clock.monotonic()
        try:
            renewal = await self._store.renew([it.lease for it in held], self._lease)
        except OutlastError as error:
            self._outage.on_failure(error)
            return False
        except Exception:  # noqa: BLE001  # a store's bug must not end the loop
            _log.exception("renewing leases failed, trying again")
            return False
        self._outage.on_success()
        until = asked_at + self._lease.total_seconds()
        for running in held:
            # What has ended meanwhile has no lease any more either; that is no refusal.
            self.refused += running.lease in renewal.lost and not running.settled
            _apply(renewal, running, until)
        self._retry_locked(renewal.locked)
        return True

    def _retry_locked(self, locked: frozenset[Lease]) -> None:
        """Try again what was not renewed, before the lease runs out."""
        if locked:
            self._clock.call_later(self._tick_seconds, self._now.set)
        if stuck := locked & self._locked:  # those that just were about to be written are not
            _log.warning("%d leases are not renewed: their records are locked", len(stuck))
        self._locked = locked


def _apply(renewal: Renewal, running: Running, until: float) -> None:
    lease = running.lease
    if lease in renewal.lost:
        if running.stop(StopReason.LEASE_LOST):
            _log.warning("operation %s was taken over; it is stopped here", lease.name)
        return
    if lease in renewal.locked:
        return
    running.lease_until = until
    if lease in renewal.cancel_requested:
        running.stop(StopReason.CANCEL)
