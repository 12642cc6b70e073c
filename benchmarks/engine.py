"""The engine alone: insert, claim, run, finish, without any RPC."""

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from benchmarks.load import CALLERS
from outlast.domain.status import Payload
from outlast.engine.clock import SystemClock
from outlast.engine.context import ExecutionContext
from outlast.engine.engine import Engine
from outlast.engine.manager import StartRequest
from outlast.engine.methods import Method
from outlast.engine.settings import EngineSettings
from outlast.ports import OperationStore
from outlast.stores.memory import MemoryStore
from outlast.stores.sqlite import SqliteStore

_ANSWER = Payload("type.googleapis.com/google.protobuf.Empty")


async def _no_op(request: Payload, context: ExecutionContext) -> Payload:
    return _ANSWER


async def measure(folder: Path, operations: int) -> None:
    """Print how many no-ops a second each store carries from start to done."""
    clock = SystemClock()
    print(f"\nEngine alone, {operations} fenced no-ops, {CALLERS} callers that wait for each")
    stores: dict[str, AbstractAsyncContextManager[OperationStore]] = {
        "memory": MemoryStore.open(clock=clock),
        "sqlite": SqliteStore.open(folder / "engine.db", clock=clock),
    }
    for name, opening in stores.items():
        async with opening as store, Engine.open(store, clock, EngineSettings()) as engine:
            method = Method(name="benchmark/NoOp", run=_no_op, metadata_type="")
            engine.register(method)
            engine.start()
            rate = await _rate(engine, method, operations)
            print(f"{name:22}{rate:12,.0f} per second   ({store.durability})")


async def _rate(engine: Engine, method: Method, operations: int) -> float:
    left = iter(range(operations))

    async def caller() -> None:
        for _ in left:
            operation = await engine.manager.start(
                StartRequest(method=method, request=_ANSWER, digest=b"")
            )
            await engine.manager.wait(operation.name, None)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return operations / (time.perf_counter() - began)
