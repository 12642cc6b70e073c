"""Settings, checked where they are given; ConfigurationError names the one that is wrong."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from outlast.domain.errors import ConfigurationError

LONGEST = timedelta(days=365_000)
"""The longest time that may be set: added to today it is still within the calendar."""
LARGEST = 2**31 - 1
"""The largest number that may be set: callers are told some of them, as an int32."""


def require(name: str, value: object, kind: type | tuple[type, ...], expected: str) -> None:
    """Raise unless a setting is of a type, which `expected` says in words."""
    if not isinstance(value, kind):
        raise ConfigurationError(f"{name} must be {expected}, not {value!r}")


def require_count(name: str, value: object) -> None:
    """Raise unless a setting is a whole number from 1 to LARGEST."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigurationError(f"{name} must be a whole number, not {value!r}")
    if value < 1:
        raise ConfigurationError(f"{name} must be at least 1, not {value}")
    if value > LARGEST:
        raise ConfigurationError(f"{name} must be at most {LARGEST}, not {value}")


def require_time(name: str, value: object, *, may_be_zero: bool = False) -> None:
    """Raise unless a setting is a timedelta of more than nothing."""
    if not isinstance(value, timedelta):
        raise ConfigurationError(f"{name} must be a datetime.timedelta, not {value!r}")
    if may_be_zero and value < timedelta():
        raise ConfigurationError(f"{name} must not be negative: {value}")
    if not may_be_zero and value <= timedelta():
        raise ConfigurationError(f"{name} must be more than 0, not {value}")
    if value > LONGEST:
        raise ConfigurationError(f"{name} must be at most {LONGEST.days} days, not {value}")


def require_function(name: str, value: Callable[..., Any] | None) -> None:
    """Raise unless a setting is a function, or None."""
    if value is not None and not callable(value):
        raise ConfigurationError(f"{name} must be a function, not {value!r}")
