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

    async def reserve(self, methods: Collection[str]) -> None:
        """Count what runs, and lock those methods of which something waits that may run."""
        await self.count()
        wanted = [it for it in self._due if it in methods and self._left[it]]
        if wanted:
            parameters = {"namespace": NAMESPACE, "methods": wanted}
            cursor = await self._transaction.execute(statements.LOCK_METHODS, parameters)
            self._locked = frozenset(method for (method,) in await cursor.fetchall())
            await self.count()  # others may have given some until then

    async def count(self) -> None:
        """Count what runs, by what is committed and what this transaction has written."""
        if self._limits:
            parameters = {**self._times, "methods": list(self._limits)}
            cursor = await self._transaction.execute(statements.COUNT_RUNNING, parameters)
            rows = await cursor.fetchall()
            self._left = {it: max(self._limits[it] - count, 0) for it, count, _, _ in rows}
            self.lost = frozenset(method for method, _, lost, _ in rows if lost)
            self._due = frozenset(method for method, _, _, due in rows if due)

    def __contains__(self, method: str) -> bool:
        """Whether a method has a limit."""
        return method in self._limits

    def room(self, method: str) -> int:
        """Return how many operations that wait may be given."""
        return self._left[method] if method in self._locked else 0

    @property
    def full(self) -> frozenset[str]:
        """The methods of which as many run as may."""
        return frozenset(method for method, left in self._left.items() if not left)

    @property
    def contended(self) -> frozenset[str]:
        """The methods of which something waits that might run, if another had not the lock."""
        return self._due - self._locked - self.full
