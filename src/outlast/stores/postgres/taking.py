"""The writes of the PostgreSQL store that workers ask for by the dozen."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar

from outlast.domain import transitions
from outlast.domain.operation import Claim, Lease, Operation
from outlast.domain.status import Payload
from outlast.domain.trial import SUSPECT_FROM
from outlast.ports import Claims, Renewal
from outlast.stores.changeset import Stored
from outlast.stores.lost_leases import LostBy
from outlast.stores.postgres import statements
from outlast.stores.postgres.texts import operation_of
from outlast.stores.postgres.transaction import Command, Transaction
from outlast.stores.rows import Row, changing_values, from_micros, to_micros

_PUT_OFF = timedelta(hours=1)

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Renew(Command[Renewal]):
    """Extend the leases of a worker."""

    order: ClassVar[int] = 2
    leases: Collection[Lease]
    duration: timedelta

    async def run(self, transaction: Transaction) -> Renewal:
        await transaction.flush()
        if not self.leases:
            return Renewal()
        parameters = renewal_parameters(self.leases, transaction.now + self.duration)
        rows = await (await transaction.execute(statements.RENEW, parameters)).fetchall()
        for name, _, _ in rows:
            transaction.stored.pop(name, None)  # the row is another one now
        return renewal_of(self.leases, rows)


def renewal_parameters(leases: Collection[Lease], until: datetime) -> dict[str, Any]:
    """Return what the statement that renews leases is given."""
    return {
        "names": [lease.name for lease in leases],
        "epochs": [lease.epoch for lease in leases],
        "until": to_micros(until),
    }


def renewal_of(leases: Collection[Lease], rows: Sequence[Row]) -> Renewal:
    """Return what became of leases, by the rows of those that were renewed."""
    kept = {Lease(name, epoch) for name, epoch, _ in rows}
    cancelled = {Lease(name, epoch) for name, epoch, asked in rows if asked}
    return Renewal(frozenset(leases) - kept, frozenset(cancelled))


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

    async def run(self, transaction: Transaction) -> Claims:
        await transaction.flush()
        free = {it: min(count, self.limit) for it, count in self.slots.items() if count > 0}
        if not free or self.limit <= 0:
            return Claims([], None)
        parameters: dict[str, Any] = {
            "now": to_micros(transaction.now),
            "lost_by": to_micros(self.lost_by.at(transaction.now)),
            "methods": list(free),
            "free": list(free.values()),
            "suspects": max(self.suspects, 0),
        }
        rows = await (await transaction.execute(statements.CLAIM, parameters)).fetchall()
        claims = [
            claim
            for row in self._chosen(rows, free)
            if (claim := await self._claim(transaction, row)) is not None
        ]
        await transaction.flush()
        given = sum(claim.operation.interruptions >= SUSPECT_FROM for claim in claims)
        parameters |= {"methods": list(self.slots), "suspects": given < self.suspects}
        cursor = await transaction.execute(statements.NEXT_READY, parameters)
        ((moment,),) = await cursor.fetchall()
        return Claims(claims, from_micros(moment))

    def _chosen(self, rows: Sequence[Row], free: Mapping[str, int]) -> Sequence[Row]:
        """Return as many rows as may be given, of what is ready, the longest ready first."""
        left, suspects = dict(free), self.suspects
        chosen: list[Row] = []
        for row in rows:
            suspect, method = row[2], row[6]
            if len(chosen) < self.limit and left[method] > 0 and suspects >= suspect:
                chosen.append(row)
                left[method] -= 1
                suspects -= suspect
        return chosen

    async def _claim(self, transaction: Transaction, row: Row) -> Claim | None:
        """Claim one operation; None if it has ended instead, or cannot be understood."""
        type_url, value, _, row_id, *values = row
        after = await _change(
            transaction,
            row_id,
            values,
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

    async def run(self, transaction: Transaction) -> int:
        await transaction.flush()
        parameters = {
            "now": to_micros(transaction.now),
            "lost_by": to_micros(self.lost_by.at(transaction.now)),
            "limit": self.limit,
        }
        rows = await (await transaction.execute(statements.REAPABLE, parameters)).fetchall()
        count = 0
        for row_id, *values in rows:
            after = await _change(
                transaction, row_id, values, lambda it: transitions.reap(it, transaction.now)
            )
            count += after is not None
        return count


async def _change(
    transaction: Transaction,
    row_id: int,
    values: Row,
    change: Callable[[Operation], Operation],
) -> Operation | None:
    """Change one operation of many; return its next state, None if it cannot be understood.

    One that cannot must not keep the others from being run: it is put off.
    """
    try:
        stored = Stored(row_id, operation_of(values))
        after = change(stored.operation)
        changing_values(after)  # it can be written
    except (ArithmeticError, LookupError, TypeError, ValueError):
        _log.exception("operation %s cannot be run; it is put off", values[0])
        until = to_micros(transaction.now + _PUT_OFF)
        await transaction.execute(statements.PUT_OFF, [until, row_id])
        return None
    transaction.add(stored)
    transaction.replace(stored, after)
    return after
