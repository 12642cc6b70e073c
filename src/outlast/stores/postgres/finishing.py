"""Ends of operations as nearly all of them are, many in one round trip."""

import logging
from collections.abc import Callable, Mapping, Sequence

from outlast.domain import transitions
from outlast.domain.errors import StoreUnavailableError
from outlast.domain.operation import Lease, Operation
from outlast.domain.transitions import Outcome
from outlast.ports import Change
from outlast.stores.changeset import Stored
from outlast.stores.postgres import statements
from outlast.stores.postgres.batching import Batcher
from outlast.stores.postgres.commands import Update
from outlast.stores.postgres.connection import Database, is_away
from outlast.stores.postgres.held import HeldRecords
from outlast.stores.postgres.writer import Writer
from outlast.stores.rows import changing_values

_log = logging.getLogger(__name__)


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
        self._batches = Batcher(self._end)

    async def finish(self, lease: Lease, outcome: Outcome) -> Operation:
        """Do what `OperationStore.finish` says."""
        known = self._held.find(lease)
        if known is not None:
            before = known.operation
            after = transitions.finish(before, lease, outcome, self._database.clock.now())
            if after.done and transitions.ended_attempt(before, after) is None:
                end = Stored(known.id, after), before.revision
                if await self._batches.ask(lease.name, end):
                    return after
        return await self._writer.run(
            Update(
                lease.name,
                lambda it, now: transitions.finish(it, lease, outcome, now),
                lease,
            )
        )

    async def stop(self) -> None:
        """Finish what was asked for."""
        await self._batches.stop()

    async def _end(self, ends: Mapping[str, tuple[Stored, int]]) -> Mapping[str, bool]:
        """Write those records that have the revision that they are known with; return which."""
        names = {stored.id: name for name, (stored, _) in ends.items()}
        rows = [  # in the order in which others lock them
            (stored.id, revision, *changing_values(stored.operation))
            for _, (stored, revision) in sorted(ends.items())
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
        self._publish([Change.of(ends[name][0].operation) for name in written])
        return dict.fromkeys(written, True)
