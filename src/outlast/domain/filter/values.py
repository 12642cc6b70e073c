"""What an argument says as a value of some type. Each function raises ValueError.

Times become nanoseconds: an argument may be finer than any record.
"""

import re
from datetime import UTC, datetime, timedelta

_INTEGER = re.compile(r"-?[0-9]{1,20}")
_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**64 - 1
_NUMBER = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_DURATION = re.compile(r"(?P<minus>-?)(?P<seconds>[0-9]{1,12})(?:\.(?P<fraction>[0-9]{1,9}))?s")
_TIMESTAMP = re.compile(
    r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})[Tt](?P<minute>[0-9]{2}:[0-9]{2})"
    r":(?P<seconds>[0-5][0-9]|60)(?:\.(?P<fraction>[0-9]{1,9}))?"
    r"(?:[Zz]|(?P<sign>[+-])(?P<hours>[01][0-9]|2[0-3]):(?P<minutes>[0-5][0-9]))"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = 10**9


def boolean(text: str) -> bool:
    """Read `true` or `false`."""
    return bool(("false", "true").index(text))


def integer(text: str) -> int:
    """Read an integer that fits in 64 bits, with or without a sign."""
    if _INTEGER.fullmatch(text) and _MIN_INTEGER <= int(text) <= _MAX_INTEGER:
        return int(text)
    raise ValueError(text)


def number(text: str) -> float:
    """Read a number, as `2.5` or `2.997e9`."""
    if _NUMBER.fullmatch(text):
        return float(text)
    raise ValueError(text)


def duration(text: str) -> int:
    """Read seconds with an `s` behind, as `1.5s`."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(text)
    length = int(found["seconds"]) * _SECOND + _fraction(found["fraction"])
    return -length if found["minus"] else length


def timestamp(text: str) -> int:
    """Read an RFC 3339 time; second 60, a leap second, is the first one of the next minute."""
    found = _TIMESTAMP.fullmatch(text)
    if found is None:
        raise ValueError(text)
    minute = datetime.fromisoformat(f"{found['date']}T{found['minute']}Z")
    offset = timedelta(hours=int(found["hours"] or 0), minutes=int(found["minutes"] or 0))
    start = since_epoch(minute) - nanoseconds(-offset if found["sign"] == "-" else offset)
    return start + int(found["seconds"]) * _SECOND + _fraction(found["fraction"])


def since_epoch(time: datetime) -> int:
    """Return the nanoseconds from 1970 to an aware time."""
    return nanoseconds(time - _EPOCH)


def nanoseconds(length: timedelta) -> int:
    """Return how long a timedelta is."""
    return length // timedelta(microseconds=1) * 1000


def _fraction(digits: str | None) -> int:
    return int((digits or "").ljust(9, "0"))
