"""The writes of the SQLite store that take what is ready."""

import logging
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from operator import itemgetter
from typing import Any, ClassVar

from outlast.domain import transitions
from outlast.domain.operation import Claim, Operation
from outlast.domain.status import Payload
from outlast.domain.trial import SUSPECT_FROM
from outlast.ports import Claims
from outlast.stores.changeset import Stored
from outlast.stores.lost_leases import LostBy
from outlast.stores.rows import (
    Row,
    changing_values,
    from_micros,
    operation_from_row,
    to_micros,
)
from outlast.stores.sqlite import statements
from outlast.stores.sqlite.transaction import Command, Transaction

_PUT_OFF = timedelta(hours=1)

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class TakeReady(Command[Claims]):
    """Give ready operations to a worker."""

    order: ClassVar[int] = 3
    worker: str
    slots: Mapping[str, int]
    limit: int
    lease: timedelta
    suspects: int
    lost_by: LostBy
    max_running: Mapping[str, int]

    def run(self, transaction: Transaction) -> Claims:
        transaction.flush()
        free = {method: count for method, count in self.slots.items() if count > 0}
        if not free or self.limit <= 0:
            return Claims([], None)
        claims = self._take(transaction, self._ready(transaction, free))
        transaction.flush()
        full = frozenset(it for it, room in self._room(transaction).items() if room == 0)
        given = sum(claim.operation.interruptions >= SUSPECT_FROM for claim in claims)
        moment = self._next_ready(transaction, full, suspects=given < self.suspects)
        return Claims(claims, from_micros(moment), held_back=full)

    def _room(self, transaction: Transaction) -> dict[str, int]:
        """Return how many more may run of each method that has a limit."""
        room: dict[str, int] = {}
        for method, limit in self.max_running.items():
            if method in self.slots:
                sql = statements.COUNT_RUNNING
                (running,) = transaction.connection.execute(sql, [method]).fetchone()
                room[method] = max(limit - running, 0)
        return room

    def _ready(self, transaction: Transaction, free: Mapping[str, int]) -> Sequence[int]:
        """Return the ids of what is ready, the longest ready first, as many as may be given."""
        room = self._room(transaction)
        rows = self._ready_without_limit(transaction, [it for it in free if it not in room])
        for method in free:
            if method in room:
                parameters = self._times(transaction) | {
                    "method": method,
                    "slots": min(free[method], self.limit),
                    "room": room[method],
                    "suspects": max(self.suspects, 0),
                }
                sql = statements.SELECT_READY_OF_LIMITED
                rows += transaction.connection.execute(sql, parameters).fetchall()
        if room:
            rows.sort(key=itemgetter(1, 0))
        left, suspects = dict(free), self.suspects
        ids: list[int] = []
        for row_id, _, method, suspect, waits in rows:
            full = left[method] == 0 or (waits and room[method] == 0)
            if len(ids) < self.limit and not full and suspects >= suspect:
                ids.append(row_id)
                left[method] -= 1
                suspects -= suspect
                if waits:
                    room[method] -= 1
        return ids

    def _ready_without_limit(self, transaction: Transaction, methods: Sequence[str]) -> list[Row]:
        """Return rows of what is ready of methods that have no limit, the longest ready first."""
        if not methods:
            return []
        now, lost_by = self._times(transaction).values()
        parameters: list[object] = []
        for method in methods:
            parameters += [method, now, lost_by, min(self.slots[method], self.limit)]
        if self.suspects > 0:
            for method in methods:
                parameters += [method, now, lost_by, self.suspects]
        limit = self.limit + self.suspects * len(methods)
        sql = statements.select_ready(len(methods), suspects=self.suspects > 0)
        return list(transaction.connection.execute(sql, [*parameters, limit]).fetchall())

    def _next_ready(
        self, transaction: Transaction, full: Collection[str], *, suspects: bool
    ) -> int | None:
        """Return when something of the asked methods may be given, or might have been."""
        moments: list[int | None] = []
        now, lost_by = self._times(transaction).values()
        if methods := [it for it in self.slots if it not in full]:
            parameters = [value for method in methods for value in (method, lost_by, now)]
            sql = statements.next_ready(len(methods), suspects=suspects)
            moments += transaction.connection.execute(sql, parameters).fetchone()
        for method in full:
            named = self._times(transaction) | {"method": method, "suspects": suspects}
            moments += transaction.connection.execute(statements.NEXT_LEASE, named).fetchone()
        return min((it for it in moments if it is not None), default=None)

    def _times(self, transaction: Transaction) -> dict[str, Any]:
        now = transaction.now
        return {"now": to_micros(now), "lost_by": to_micros(self.lost_by.at(now))}

    def _take(self, transaction: Transaction, ids: Sequence[int]) -> list[Claim]:
        rows: dict[int, Row] = {}
        for batch in statements.batches(ids):
            sql = statements.select_claimed(len(batch))
            for row in transaction.connection.execute(sql, batch).fetchall():
                rows[row[0]] = row
        if len(rows) < len(ids):
            raise sqlite3.DatabaseError("an index names operations that are not there")
        claims: list[Claim] = []
        for row_id in ids:
            claim = self._claim(transaction, rows[row_id])
            if claim is not None:
                claims.append(claim)
        return claims

    def _claim(self, transaction: Transaction, row: Row) -> Claim | None:
        """Claim one operation; None if it has ended instead, or cannot be understood."""
        row_id, type_url, value, *columns = row
        after = _change(
            transaction,
            row_id,
            columns,
            lambda it: transitions.claim(it, self.worker, transaction.now, self.lease),
        )
        if after is None or after.done:
            return None
        return Claim(after, Payload(type_url, value))


@dataclass(eq=False, slots=True)
class Reap(Command[int]):
    """End what is ready and must not run again."""

    order: ClassVar[int] = 3
    limit: int
    lost_by: LostBy

    def run(self, transaction: Transaction) -> int:
        transaction.flush()
        parameters = {
            "now": to_micros(transaction.now),
            "lost_by": to_micros(self.lost_by.at(transaction.now)),
            "limit": self.limit,
        }
        rows = transaction.connection.execute(statements.REAPABLE, parameters).fetchall()
        count = 0
        for row_id, *columns in rows:
            after = _change(
                transaction, row_id, columns, lambda it: transitions.reap(it, transaction.now)
            )
            count += after is not None
        return count


def _change(
    transaction: Transaction,
    row_id: int,
    columns: Sequence[object],
    change: Callable[[Operation], Operation],
) -> Operation | None:
    """Change one operation of many; return its next state, None if it cannot be understood.

    One that cannot must not keep the others from being run: it is put off.
    """
    try:
        stored = Stored(row_id, operation_from_row(columns))
        after = change(stored.operation)
        changing_values(after)  # it can be written
    except (ArithmeticError, LookupError, TypeError, ValueError):
        _log.exception("operation %s cannot be run; it is put off", columns[0])
        until = to_micros(transaction.now + _PUT_OFF)
        transaction.connection.execute(statements.PUT_OFF, [until, row_id])
        return None
    transaction.add(stored)
    transaction.replace(stored, after)
    return after
