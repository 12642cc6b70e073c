"""Which leases are lost, for a claim whose turn comes later than its call."""

from datetime import datetime, timedelta

from outlast.ports import Clock

_NO_JUMP = timedelta(milliseconds=10)
"""By how much two clocks that were read one after the other may differ."""


class LostBy:
    """By when a lease must have run out to be lost, whatever the clock does meanwhile."""

    def __init__(self, clock: Clock, distrust: timedelta) -> None:
        self._clock = clock
        self._asked_at, self._since = clock.now() - distrust, clock.monotonic()
        self._distrust = distrust

    def at(self, now: datetime) -> datetime:
        """Return that time; a jump ahead since it was asked for does not count."""
        waited = timedelta(seconds=self._clock.monotonic() - self._since)
        expected = self._asked_at + waited
        return now - self._distrust if now - self._distrust - expected < _NO_JUMP else expected
