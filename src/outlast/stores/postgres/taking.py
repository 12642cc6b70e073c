"""The writes of the PostgreSQL store that workers ask for by the dozen."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any, ClassVar

from outlast.domain import transitions
from outlast.domain.operation import Claim, Lease, Operation, State
from outlast.domain.status import Payload
from outlast.domain.trial import SUSPECT_FROM
from outlast.ports import Claims, Renewal
from outlast.stores.changeset import Stored
from outlast.stores.lost_leases import LostBy
from outlast.stores.postgres import statements
from outlast.stores.postgres.limits import Places
from outlast.stores.postgres.texts import operation_of
from outlast.stores.postgres.transaction import Command, Transaction
from outlast.stores.rows import COLUMNS, Row, changing_values, from_micros, to_micros

_PUT_OFF = timedelta(hours=1)
_SUSPECT, _ID = 2, 3
_METHOD, _STATE, _READY_TIME = (4 + COLUMNS.index(it) for it in ("method", "state", "ready_time"))
"""Where the rows of what is ready have what."""

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
        held: Sequence[Row] = []
        if len(rows) < len(self.leases):
            held = await (await transaction.execute(statements.STILL_HELD, parameters)).fetchall()
        return renewal_of(self.leases, rows, held)


def renewal_parameters(leases: Collection[Lease], until: datetime) -> dict[str, Any]:
    """Return what the statement that renews leases is given."""
    return {
        "names": [lease.name for lease in leases],
        "epochs": [lease.epoch for lease in leases],
        "until": to_micros(until),
    }


def renewal_of(
    leases: Collection[Lease], rows: Sequence[Row], still_held: Sequence[Row]
) -> Renewal:
    """Return what became of leases: the rows of the renewed ones, and all that are good."""
    renewed = {Lease(name, epoch) for name, epoch, _ in rows}
    cancelled = {Lease(name, epoch) for name, epoch, asked in rows if asked}
    locked = {Lease(name, epoch) for name, epoch in still_held} - renewed
    return Renewal(frozenset(leases) - renewed - locked, frozenset(cancelled), frozenset(locked))


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

    async def run(self, transaction: Transaction) -> Claims:
        await transaction.flush()
        free = {it: min(count, self.limit) for it, count in self.slots.items() if count > 0}
        if not free or self.limit <= 0:
            return Claims([], None)
        times = {
            "now": to_micros(transaction.now),
            "lost_by": to_micros(self.lost_by.at(transaction.now)),
        }
        limits = {it: limit for it, limit in self.max_running.items() if it in self.slots}
        places = Places(transaction, limits, times)
        await places.reserve(free)
        chosen = self._chosen(await self._ready(transaction, free, places, times), free, places)
        claims: list[Claim] = []
        for row in chosen:
            if (claim := await self._claim(transaction, row)) is not None:
                claims.append(claim)
            waited = row[_STATE] == State.PENDING
            places.note(row[_METHOD], waited=waited, runs=claim is not None)
        given = sum(claim.operation.interruptions >= SUSPECT_FROM for claim in claims)
        parameters = {**times, "suspects": given < self.suspects}
        async with transaction.connection.pipeline():  # one round trip
            await transaction.flush()
            moment = await self._next_ready(transaction, places, parameters)
        return Claims(claims, from_micros(moment), places.full, places.contended)

    async def _ready(
        self,
        transaction: Transaction,
        free: Mapping[str, int],
        places: Places,
        times: Mapping[str, Any],
    ) -> Sequence[Row]:
        """Return, locked, what is ready, the longest ready first."""
        unlimited = [it for it in free if it not in places]
        limited = [it for it in free if it in places and (places.room(it) or it in places.lost)]
        rows: list[Row] = []
        for sql, methods in ((statements.CLAIM, unlimited), (statements.CLAIM_LIMITED, limited)):
            if methods:
                parameters = {
                    **times,
                    "methods": methods,
                    "free": [free[method] for method in methods],
                    "room": [places.room(it) for it in methods if it in places],
                    "suspects": max(self.suspects, 0),
                }
                rows += await (await transaction.execute(sql, parameters)).fetchall()
        if limited:
            rows.sort(key=itemgetter(_READY_TIME, _ID))
        return rows

    def _chosen(
        self, rows: Sequence[Row], free: Mapping[str, int], places: Places
    ) -> Sequence[Row]:
        """Return as many rows as may be given, of what is ready, the longest ready first."""
        left, suspects = dict(free), self.suspects
        room = {method: places.room(method) for method in free if method in places}
        chosen: list[Row] = []
        for row in rows:
            suspect, method = row[_SUSPECT], row[_METHOD]
            takes_place = method in room and row[_STATE] == State.PENDING
            full = left[method] == 0 or (takes_place and room[method] == 0)
            if len(chosen) < self.limit and not full and suspects >= suspect:
                chosen.append(row)
                left[method] -= 1
                suspects -= suspect
                if takes_place:
                    room[method] -= 1
        return chosen

    async def _next_ready(
        self, transaction: Transaction, places: Places, parameters: Mapping[str, Any]
    ) -> int | None:
        """Return when something of the asked methods may be given, or might have been."""
        closed = places.full | places.contended
        moments: list[int | None] = []
        for sql, methods in (
            (statements.NEXT_READY, [it for it in self.slots if it not in closed]),
            (statements.NEXT_LEASE, list(closed)),
        ):
            if methods:
                cursor = await transaction.execute(sql, {**parameters, "methods": methods})
                moments += [moment for (moment,) in await cursor.fetchall()]
        return min((it for it in moments if it is not None), default=None)

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
