"""Outlast: its engine on its PostgreSQL store, without any RPC. The setting is `concurrency`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.postgres.queues.contract import Queue, Runs
from outlast.domain.status import Payload
from outlast.engine.clock import SystemClock
from outlast.engine.context import ExecutionContext
from outlast.engine.engine import Engine
from outlast.engine.manager import StartRequest
from outlast.engine.methods import Method
from outlast.engine.settings import EngineSettings
from outlast.stores.postgres import PostgresStore

_EMPTY = Payload("type.googleapis.com/google.protobuf.Empty")


@asynccontextmanager
async def opened(url: str, setting: int, runs: Runs) -> AsyncIterator[Queue]:
    """Yield an engine at work."""

    async def no_op(request: Payload, context: ExecutionContext) -> Payload:
        runs.ran()
        return _EMPTY

    clock = SystemClock()
    method = Method(name="benchmark/NoOp", run=no_op, metadata_type="")
    start = StartRequest(method=method, request=_EMPTY, digest=b"")
    async with (
        PostgresStore.open(url, timer=clock) as store,
        Engine.open(store, clock, EngineSettings(concurrency=setting)) as engine,
    ):
        engine.register(method)
        engine.start()

        async def run() -> None:
            operation = await engine.manager.start(start)
            await engine.manager.wait(operation.name, None)

        yield Queue(
            enqueue=lambda: engine.manager.start(start),
            run=run,
            unfinished="SELECT count(*) FROM outlast.operations WHERE ready_time IS NOT NULL",
        )
