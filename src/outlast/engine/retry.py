"""When and how often a failed attempt is made again."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from outlast.domain.checks import require, require_count, require_time
from outlast.domain.errors import ConfigurationError
from outlast.domain.status import Code

_MAX_MULTIPLIER = 100
_MAX_EXPONENT = 64
"""With these the growth stays a float, however many attempts there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with jitter.

    The default follows AIP-194: of the failures that a handler reports, only
    UNAVAILABLE is retried. An exception that a handler did not mean to raise, and
    a worker that was lost, are retried under every policy, as far as its attempts go.
    """

    max_attempts: int = 5
    """How many attempts there are in all. 1 means no retry."""
    initial_backoff: timedelta = timedelta(seconds=1)
    """How long to wait after the first attempt."""
    multiplier: float = 2.0
    """By what the wait grows with each attempt."""
    max_backoff: timedelta = timedelta(minutes=1)
    """What it does not grow beyond."""
    jitter: float = 0.2
    """By what share, up or down, a wait is moved at random."""
    codes: Collection[Code | Enum] = frozenset({Code.UNAVAILABLE})
    """The codes of reported failures that are worth another attempt.

    They may be given as `grpc.StatusCode`; they are kept as a frozenset of `Code`.
    """

    def __post_init__(self) -> None:
        require_count("max_attempts", self.max_attempts)
        for name in ("multiplier", "jitter"):
            require(name, getattr(self, name), (int, float), "a number")
        for name in ("initial_backoff", "max_backoff"):
            require_time(name, getattr(self, name))
        if not 1 <= self.multiplier <= _MAX_MULTIPLIER:
            raise ConfigurationError(
                f"multiplier must be from 1 to {_MAX_MULTIPLIER}, not {self.multiplier}"
            )
        if not 0 <= self.jitter < 1:
            raise ConfigurationError(f"jitter must be from 0 to below 1, not {self.jitter}")
        if self.max_backoff < self.initial_backoff:
            raise ConfigurationError("initial_backoff must not be above max_backoff")
        object.__setattr__(self, "codes", _codes(self.codes))

    def delay(self, attempt: int, chance: float) -> timedelta:
        """Return how long to wait after an attempt (from 1); `chance` is from 0 to 1."""
        growth = self.multiplier ** min(attempt - 1, _MAX_EXPONENT)
        seconds = min(
            self.initial_backoff.total_seconds() * growth, self.max_backoff.total_seconds()
        )
        return timedelta(seconds=seconds * (1 + self.jitter * (2 * chance - 1)))


def _codes(given: Collection[Code | Enum]) -> frozenset[Code]:
    """Return codes as ours. One alone is no collection, and none says when to retry OK."""
    try:
        codes = frozenset(map(Code.of, given))
    except (TypeError, ValueError):
        codes = frozenset({Code.OK})
    if Code.OK in codes:
        raise ConfigurationError(f"codes must be a set of error codes, not {given!r}")
    return codes
