"""DBOS: workflows through a queue. The setting is the queue's polling interval in milliseconds.

Started without a queue they begin sooner, but are run by the process that started them only.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dbos import DBOS, DBOSConfig

from benchmarks.postgres.queues.contract import Queue, Runs

_QUEUE = "no-ops"


@asynccontextmanager
async def opened(url: str, setting: int, runs: Runs) -> AsyncIterator[Queue]:
    """Yield a queue and its executor."""

    async def no_op() -> None:
        runs.ran()

    DBOS(config=DBOSConfig(name="bench", system_database_url=url, log_level="ERROR"))
    workflow = DBOS.workflow(name="no_op")(no_op)
    DBOS.launch()
    await DBOS.register_queue_async(_QUEUE, polling_interval_sec=setting / 1000)
    yield Queue(
        enqueue=lambda: DBOS.enqueue_workflow_async(_QUEUE, workflow),
        unfinished="SELECT count(*) FROM dbos.workflow_status WHERE status <> 'SUCCESS'",
    )
    DBOS.destroy()
