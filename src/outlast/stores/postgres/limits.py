"""Limits of methods that hold over all nodes."""

from collections.abc import Collection, Mapping
from typing import Any

from outlast.stores.postgres import statements
from outlast.stores.postgres.transaction import Transaction

NAMESPACE = 0x4F75746C
"""The first half of the keys of the advisory locks; the second is a hash of the method."""


class Places:
    """How many more operations may run, of each asked method that has a limit.

    Who gives operations has the lock of their method until its transaction ends, so that
    nobody else counts on the same places. Nobody waits for it: the process that has it may
    stand still.
    """

    def __init__(
        self, transaction: Transaction, limits: Mapping[str, int], times: Mapping[str, Any]
    ) -> None:
        self.lost: frozenset[str] = frozenset()
        """The methods of which something has lost its lease."""
        self._transaction = transaction
        self._limits = limits
        self._times = times
        self._left: dict[str, int] = {}
        self._due: frozenset[str] = frozenset()
        self._locked: frozenset[str] = frozenset()
        self._refused: frozenset[str] = frozenset()

    async def reserve(self, methods: Collection[str]) -> None:
        """Count what runs, and lock those methods of which something waits that may run."""
        if not self._limits:
            return
        lockable = {it: limit if it in methods else 0 for it, limit in self._limits.items()}
        self._locked = await self._count(lockable)
        self._refused = self._due.intersection(methods) - self.full - self._locked
        if self._locked:  # others may have given some until then
            await self._count(dict.fromkeys(self._limits, 0))

    async def _count(self, lockable: Mapping[str, int]) -> frozenset[str]:
        """Count what runs, as committed by now; return the methods that are locked by that."""
        parameters = {
            **self._times,
            "namespace": NAMESPACE,
            "methods": list(lockable),
            "lockable": list(lockable.values()),
        }
        cursor = await self._transaction.execute(statements.PLACES, parameters)
        rows = await cursor.fetchall()
        self._left = {method: self._limits[method] - count for method, count, *_ in rows}
        self.lost = frozenset(row[0] for row in rows if row[2])
        self._due = frozenset(row[0] for row in rows if row[3])
        return frozenset(row[0] for row in rows if row[4])

    def note(self, method: str, *, waited: bool, runs: bool) -> None:
        """Take note of what has become of an operation that was to be given."""
        if method in self._left:
            self._left[method] += (not waited) - runs

    def __contains__(self, method: str) -> bool:
        """Whether a method has a limit."""
        return method in self._limits

    def room(self, method: str) -> int:
        """Return how many operations that wait may be given."""
        return max(self._left[method], 0) if method in self._locked else 0

    @property
    def full(self) -> frozenset[str]:
        """The methods of which as many run as may."""
        return frozenset(method for method, left in self._left.items() if left <= 0)

    @property
    def contended(self) -> frozenset[str]:
        """The methods of which something waits that might run, if another had not the lock."""
        return self._refused - self.full
