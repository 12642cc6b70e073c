"""What processes tell each other of changes: JSON in notifications, which are short."""

import json
from collections.abc import MutableMapping, Sequence

from outlast.domain.operation import State
from outlast.ports import Change, Changes

_MAX_BYTES = 7_900
"""A notification holds less than 8,000 bytes; what is around the hints takes some."""
_ALL_FLAGS = 3

ANYTHING = "null"
"""The text of the hint that anything may have changed."""


def packed(waiting: MutableMapping[str, Change]) -> str:
    """Take as many changes as one notification holds, the first ones; return them as text.

    The text is ASCII. It is ANYTHING for a change that is too long.
    """
    groups: dict[str, list[str]] = {}
    room = _MAX_BYTES
    while waiting:
        name, change = next(iter(waiting.items()))
        kind, quoted = _kind(change), json.dumps(name)
        room -= len(quoted) + 1 + (0 if kind in groups else len(kind) + 5)
        if room < 0:
            break
        del waiting[name]
        groups.setdefault(kind, []).append(quoted)
    if not groups:
        del waiting[next(iter(waiting))]
        return ANYTHING
    hints = (f"[{kind},[{','.join(names)}]]" for kind, names in groups.items())
    return f"[{','.join(hints)}]"


def unpacked(text: str) -> Changes:
    """Read the hints that `packed` has written; None for any other text, whoever wrote it."""
    try:
        hints = json.loads(text)
        if isinstance(hints, list):
            return [change for group in hints for change in _changes(group)]
    except (ValueError, RecursionError):
        pass
    return None


def _changes(group: object) -> Sequence[Change]:
    """Return the changes of one kind; raise ValueError if there are none to be read."""
    match group:
        case [str(method), str(state), int(flags), [*names]] if 0 <= flags <= _ALL_FLAGS:
            kind = State(state), bool(flags & 1), bool(flags & 2)
            return [Change(_text(name), _text(method), *kind) for name in names]
    raise ValueError("not hints")


def _text(value: object) -> str:
    """Return what can be the name of something."""
    if not isinstance(value, str) or not value:
        raise ValueError("not a name")
    value.encode()  # half a character raises UnicodeEncodeError, which is a ValueError
    return value


def _kind(change: Change) -> str:
    flags = change.cancel_requested + 2 * change.deleted
    return f'{json.dumps(change.method)},"{change.state.value}",{flags}'
