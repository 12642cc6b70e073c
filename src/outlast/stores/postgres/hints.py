"""What processes tell each other of changes: JSON in notifications, which are short."""

import json
from collections.abc import MutableMapping, Sequence

from outlast.domain.operation import State
from outlast.ports import Change, Changes

_MAX_BYTES = 7_900
"""A notification holds less than 8,000 bytes; what is around the hints takes some."""


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


def unpacked(hints: Sequence[tuple[str, str, int, Sequence[str]]] | None) -> Changes:
    """Read what JSON has made of the text."""
    if hints is None:
        return None
    return [
        Change(name, method, State(state), bool(flags & 1), bool(flags & 2))
        for method, state, flags, names in hints
        for name in names
    ]


def _kind(change: Change) -> str:
    flags = change.cancel_requested + 2 * change.deleted
    return f'{json.dumps(change.method)},"{change.state.value}",{flags}'
