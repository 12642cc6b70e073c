"""Encoded snapshots, kept for those who ask for the same one."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from outlast.domain.operation import Operation

# Clients poll, and many may wait for one operation.
_MAX_KEPT = 4096
_MAX_KEPT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Encoded:
    """A response that is on its way to the wire already."""

    data: bytes


class Snapshots:
    """Encodes each state of an operation once, and shares the bytes.

    What was encoded first is forgotten first when too much is kept; the latest is
    always kept, whatever its size.
    """

    def __init__(self, encode: Callable[[Operation], bytes]) -> None:
        self._encode = encode
        self._kept: OrderedDict[str, tuple[int, Encoded]] = OrderedDict()
        self._size = 0

    def of(self, operation: Operation) -> Encoded:
        """Return the snapshot of a record; every change that shows in it has a revision."""
        kept = self._kept.get(operation.name)
        if kept is not None and kept[0] == operation.revision:
            return kept[1]
        snapshot = Encoded(self._encode(operation))
        if kept is not None:
            self._forget(operation.name)
        self._kept[operation.name] = operation.revision, snapshot
        self._size += len(snapshot.data)
        while len(self._kept) > 1 and (len(self._kept) > _MAX_KEPT or self._size > _MAX_KEPT_BYTES):
            self._forget(next(iter(self._kept)))
        return snapshot

    def _forget(self, name: str) -> None:
        _, snapshot = self._kept.pop(name)
        self._size -= len(snapshot.data)
