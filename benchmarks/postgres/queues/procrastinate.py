"""Procrastinate, with a worker in this process. The setting is the worker's `concurrency`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from procrastinate import App, PsycopgConnector

from benchmarks.postgres.queues.contract import Queue, Runs

_CONNECTIONS = 16


@asynccontextmanager
async def opened(url: str, setting: int, runs: Runs) -> AsyncIterator[Queue]:
    """Yield a queue and its worker, which is woken by NOTIFY."""

    async def no_op() -> None:
        runs.ran()

    connector = PsycopgConnector(conninfo=url, min_size=_CONNECTIONS, max_size=_CONNECTIONS)
    app = App(connector=connector)
    task = app.task(name="no_op")(no_op)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        worker = app.run_worker_async(concurrency=setting, install_signal_handlers=False)
        work = asyncio.create_task(worker)
        yield Queue(
            enqueue=task.defer_async,
            enqueue_all=lambda number: task.batch_defer_async(*({} for _ in range(number))),
            unfinished="SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')",
        )
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work
