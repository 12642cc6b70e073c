"""Ends of operations as nearly all of them are, many in one round trip."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from outlast.domain import transitions
from outlast.domain.errors import StoreUnavailableError
from outlast.domain.operation import Lease, Operation
from outlast.domain.transitions import Outcome, Succeeded
from outlast.ports import Change
from outlast.stores.postgres import statements
from outlast.stores.postgres.batching import Batcher
from outlast.stores.postgres.commands import Update
from outlast.stores.postgres.connection import Database, is_away
from outlast.stores.postgres.held import HeldRecords
from outlast.stores.postgres.writer import Writer
from outlast.stores.rows import changing_values

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _End:
    """An operation that has ended, and the revision that it ought to have until then."""

    id: int
    after: Operation
    known_revision: int

    @property
    def size(self) -> int:
        return len(self.after.metadata.value) + len(
            self.after.response.value if self.after.response else b""
        )


class Finisher:
    """Ends operations whose records are known; has the writer end those that are not.

    A record that turns out to have been changed by others is not written, but left to the
    writer, which reads it.
    """

    def __init__(
        self,
        database: Database,
        writer: Writer,
        held: HeldRecords,
        publish: Callable[[Sequence[Change]], None],
    ) -> None:
        self._database = database
        self._writer = writer
        self._held = held
        self._publish = publish
        self._batches = Batcher(self._write)

    async def finish(self, lease: Lease, outcome: Outcome) -> Operation:
        """Do what `OperationStore.finish` says."""
        known = self._held.find(lease)
        if known is not None:
            before = known.operation
            after = transitions.finish(before, lease, outcome, self._database.clock.now())
            if after.done and transitions.ended_attempt(before, after) is None:
                end = _End(known.id, after, before.revision)
                if await self._batches.ask(lease.name, end):
                    return after
        return await self._writer.run(
            Update(
                lease.name,
                lambda it, now: transitions.finish(it, lease, outcome, now),
                lease,
                _size(outcome),
            )
        )

    async def stop(self) -> None:
        """Finish what was asked for."""
        await self._batches.stop()

    async def _write(self, ends: Mapping[str, _End]) -> Mapping[str, bool]:
        """Write those records that have the revision that they are known with; return which."""
        names = {end.id: name for name, end in ends.items()}
        rows = [  # in the order in which others lock them
            (end.id, end.known_revision, *changing_values(end.after))
            for _, end in sorted(ends.items())
        ]
        statement = statements.UPDATE_UNCHANGED
        try:
            async with self._database.round_trip() as connection:
                cursor = await connection.execute(
                    statement.sql.encode(), statement.parameters(rows), binary=True
                )
            written = [names[row_id] for (row_id,) in await cursor.fetchall()]
        except Exception as error:  # one bad record must not take others down
            if isinstance(error, StoreUnavailableError) and is_away(error.__cause__):
                raise
            _log.info("%d ends at once failed, and are tried again: %s", len(ends), error)
            return {}
        self._held.forget(written)
        self._publish([Change.of(ends[name].after) for name in written])
        return dict.fromkeys(written, True)


def _size(outcome: Outcome) -> int:
    return len(outcome.response.value) if isinstance(outcome, Succeeded) else 0
