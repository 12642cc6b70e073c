"""PgQueuer, on asyncpg, which its documentation says is the fastest. The setting is `batch_size`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.queries import Queries

from benchmarks.postgres.queues.contract import Queue, Runs

_CONNECTIONS = 16


@asynccontextmanager
async def opened(url: str, setting: int, runs: Runs) -> AsyncIterator[Queue]:
    """Yield a queue and its worker, which is woken by NOTIFY."""

    async def no_op(job: Any) -> None:
        runs.ran()

    async with asyncpg.create_pool(url, min_size=_CONNECTIONS, max_size=_CONNECTIONS) as pool:
        connection = await asyncpg.connect(url)
        queries = Queries(AsyncpgPoolDriver(pool))
        await queries.install()
        worker = PgQueuer(AsyncpgDriver(connection))
        worker.entrypoint("no_op")(no_op)
        work = asyncio.create_task(worker.run(batch_size=setting))
        yield Queue(
            enqueue=lambda: queries.enqueue("no_op", None),
            enqueue_all=lambda number: queries.enqueue(
                ["no_op"] * number, [None] * number, [0] * number
            ),
            unfinished="SELECT count(*) FROM pgqueuer",  # what is done leaves for the log
        )
        worker.shutdown.set()
        await work
        await connection.close()
