"""Jumps of the time of day, after which leases that run seem to have run out."""

from datetime import timedelta
from math import inf

from outlast.ports import Clock


class JumpWatch:
    """Notices that the time of day has jumped ahead since it was last asked to look."""

    def __init__(self, clock: Clock, lease: timedelta) -> None:
        self._clock = clock
        self._lease_seconds = lease.total_seconds()
        self._was_ahead = self._ahead()
        self._trusts_from = -inf

    @property
    def may_take_over(self) -> bool:
        """Whether a lease that ran out is lost, and did not just seem to when the clock jumped.

        A lease after the last jump: who lives has renewed by then.
        """
        return self._clock.monotonic() >= self._trusts_from

    def look(self) -> float:
        """Return by how many seconds the time of day has jumped ahead; 0 if that is harmless."""
        before, self._was_ahead = self._was_ahead, self._ahead()
        jump = self._was_ahead - before
        if jump <= self._lease_seconds / 6:
            return 0.0
        self._trusts_from = self._clock.monotonic() + self._lease_seconds
        return jump

    def _ahead(self) -> float:
        """Return how far the time of day is ahead of monotonic time: that changes as it jumps."""
        return self._clock.now().timestamp() - self._clock.monotonic()
