"""Inserts that nothing speaks against, many of them in one round trip."""

import logging
from collections.abc import Callable, Mapping, Sequence

from outlast.domain.errors import StoreUnavailableError
from outlast.ports import Change, Inserted
from outlast.stores.postgres.batching import Batcher
from outlast.stores.postgres.commands import Insert, insertion
from outlast.stores.postgres.connection import Database, is_away
from outlast.stores.postgres.writer import Writer

_log = logging.getLogger(__name__)


class Inserter:
    """Keeps new operations; has the writer look into those that the database does not let in.

    Starts are what most callers wait for, and hardly ever in anybody's way.
    """

    def __init__(
        self, database: Database, writer: Writer, publish: Callable[[Sequence[Change]], None]
    ) -> None:
        self._database = database
        self._writer = writer
        self._publish = publish
        self._batches = Batcher(self._keep)

    async def insert(self, command: Insert) -> Inserted:
        """Do what the command says."""
        operation = command.operation
        if command.max_pending_in_method is None and await self._batches.ask(
            operation.name, command
        ):
            return Inserted(operation, created=True)
        return await self._writer.run(command)

    async def stop(self) -> None:
        """Finish what was asked for."""
        await self._batches.stop()

    async def _keep(self, commands: Mapping[str, Insert]) -> Mapping[str, bool]:
        """Keep those that may be; return which."""
        limits = [it.max_pending for it in commands.values() if it.max_pending is not None]
        try:
            sql, parameters = insertion(list(commands.values()), min(limits, default=None))
            async with self._database.round_trip() as connection:
                cursor = await connection.execute(sql.encode(), parameters, binary=True)
            kept = [name for _, name in await cursor.fetchall()]
        except Exception as error:  # one bad record must not take others down
            if isinstance(error, StoreUnavailableError) and is_away(error.__cause__):
                raise
            _log.info("%d inserts at once failed, and are tried again: %s", len(commands), error)
            return {}
        self._publish([Change.of(commands[name].operation) for name in kept])
        return dict.fromkeys(kept, True)
