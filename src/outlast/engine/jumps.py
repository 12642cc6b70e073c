"""Jumps of the time of day, after which leases that run seem to have run out."""

from datetime import timedelta

from outlast.ports import Clock

_DISTRUST = timedelta(minutes=1)
"""For how long at least a jump is not believed: who lives has renewed its leases by then."""


class JumpWatch:
    """Knows by how much the time of day has jumped ahead of late.

    It follows the time of day as long as that passes as monotonic time does.
    """

    def __init__(self, clock: Clock, lease: timedelta) -> None:
        self._clock = clock
        self._margin_seconds = lease.total_seconds() / 6
        """Less than that is no jump: leases are renewed long before they run out."""
        self._distrust_seconds = max(lease, _DISTRUST).total_seconds()
        self._ahead = self._believed = self._look()
        self._believes_from: float | None = None

    @property
    def distrust(self) -> timedelta:
        """How much earlier than the time of day says a lease must have run out to be lost."""
        return timedelta(seconds=self._ahead - self._believed)

    def look(self) -> float:
        """Return by how many seconds the time of day has jumped ahead; 0 if that is harmless."""
        now, before, self._ahead = self._clock.monotonic(), self._ahead, self._look()
        jump = self._ahead - before
        if jump > self._margin_seconds:
            self._believes_from = now + self._distrust_seconds
        if self._believes_from is None or now >= self._believes_from:
            self._believed, self._believes_from = self._ahead, None
        self._believed = min(self._believed, self._ahead)
        return jump if jump > self._margin_seconds else 0.0

    def _look(self) -> float:
        """Return how far the time of day is ahead of monotonic time: that changes as it jumps."""
        return self._clock.now().timestamp() - self._clock.monotonic()
