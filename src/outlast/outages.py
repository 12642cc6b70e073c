"""What is logged of something that fails again and again: little."""

import logging
from collections.abc import Callable

LOG_SECONDS = 15.0
"""How long nothing more is logged of what goes on failing."""


class Outage:
    """Logs that something fails: at once, then seldom, and once when it is over."""

    def __init__(
        self, log: logging.Logger, monotonic: Callable[[], float], failing: str, over: str
    ) -> None:
        self._log = log
        self._monotonic = monotonic
        self._failing = failing
        self._over = over
        self._began: float | None = None
        self._next_log = 0.0

    def on_failure(self, reason: object) -> None:
        """Log that it fails, unless that was logged a short while ago."""
        now = self._monotonic()
        if self._began is None:
            self._began = self._next_log = now
        if now >= self._next_log:
            self._log.warning("%s, trying again: %s", self._failing, reason)
            self._next_log = now + LOG_SECONDS

    def on_success(self) -> None:
        """Log that it has ended, if it has failed."""
        if self._began is not None:
            self._log.warning("%s, after %.0f s", self._over, self._monotonic() - self._began)
            self._began = None
