"""An event loop that stands still: real time, because nothing else passes meanwhile."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from outlast.domain.operation import State
from outlast.domain.status import Payload
from outlast.engine.clock import SystemClock
from outlast.engine.engine import Engine
from outlast.engine.manager import StartRequest
from outlast.engine.methods import Method
from outlast.engine.settings import EngineSettings
from outlast.ports import OperationStore
from outlast.stores.memory import MemoryStore
from outlast.stores.sqlite import SqliteStore

LEASE = timedelta(seconds=0.6)
REQUEST = Payload("example.v1.Request")
RESPONSE = Payload("example.v1.Book")


class Rival:
    """Another process, as far as it can be had in this one: a thread with a loop of its own.

    It claims whatever it can, until it is told to stop.
    """

    def __init__(self, path: Path) -> None:
        self.taken: list[str] = []
        self.watching = threading.Event()
        self._path = path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._claim()))

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    async def _claim(self) -> None:
        async with SqliteStore.open(self._path, clock=SystemClock()) as store:
            while not self._stop.is_set():
                claims = await store.claim("rival", {"books/Print": 10}, 10, timedelta(minutes=1))
                self.taken += [claim.operation.name for claim in claims.claims]
                self.watching.set()
                await asyncio.sleep(0.02)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OperationStore]:
    clock = SystemClock()
    opening = (
        MemoryStore.open(clock=clock)
        if request.param == "memory"
        else SqliteStore.open(tmp_path / "operations.db", clock=clock)
    )
    async with opening as store:
        yield store


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def started(stack: AsyncExitStack, store: OperationStore, run, **settings) -> Engine:
    """Open an engine with a watchdog that runs one method."""
    rules = EngineSettings(**({"lease": LEASE} | settings))
    engine = await stack.enter_async_context(Engine.open(store, SystemClock(), rules))
    engine.register(Method(name="books/Print", run=run, metadata_type="example.v1.Metadata"))
    engine.start(watch_loop=True)
    return engine


async def begin(engine: Engine) -> str:
    start = StartRequest(method=engine.methods["books/Print"], request=REQUEST, digest=b"")
    return (await engine.manager.start(start)).name


def block(seconds: float, until: Callable[[], bool] = lambda: False) -> None:
    """Hold up the event loop for so long, or until something is true."""
    over = time.monotonic() + seconds
    while time.monotonic() < over and not until():
        pass


async def test_what_runs_beside_a_handler_that_blocks_keeps_its_lease(stack, store):
    neighbour = asyncio.Event()
    free = asyncio.Event()

    async def run(_request, _context):
        if neighbour.is_set():
            block(3 * LEASE.total_seconds())
            free.set()
            return RESPONSE
        neighbour.set()
        await free.wait()
        return RESPONSE

    engine = await started(stack, store, run)
    names = [await begin(engine)]
    await neighbour.wait()
    names.append(await begin(engine))

    done = [await engine.manager.wait(name, None) for name in names]

    assert [(it.state, it.attempt) for it in done] == [(State.SUCCEEDED, 1)] * 2
    assert engine.executor.refused_writes == 0


async def test_nobody_takes_over_what_a_blocked_loop_runs(stack, tmp_path):
    path = tmp_path / "operations.db"
    rival = Rival(path)
    stack.callback(rival.stop)

    async def run(_request, _context):
        rival.start()
        block(10, until=rival.watching.is_set)
        block(2 * LEASE.total_seconds())
        return RESPONSE

    store = await stack.enter_async_context(SqliteStore.open(path, clock=SystemClock()))
    engine = await started(stack, store, run)

    done = await engine.manager.wait(await begin(engine), None)

    assert rival.taken == []
    assert (done.state, done.attempt) == (State.SUCCEEDED, 1)


async def test_a_loop_that_stands_still_for_too_long_loses_its_leases(stack, tmp_path):
    path = tmp_path / "operations.db"
    rival = Rival(path)
    stack.callback(rival.stop)

    async def run(_request, _context):
        rival.start()
        block(10, until=lambda: bool(rival.taken))
        await asyncio.sleep(0)
        return RESPONSE

    store = await stack.enter_async_context(SqliteStore.open(path, clock=SystemClock()))
    engine = await started(stack, store, run, max_loop_block=timedelta(seconds=0.1))
    name = await begin(engine)
    await engine.executor.drain()

    operation = await store.get(name)
    assert rival.taken == [name]
    assert (operation.state, operation.worker) == (State.RUNNING, "rival")
    assert engine.executor.refused_writes == 1


async def test_the_watchdog_says_which_handler_blocks_and_where(stack, store, caplog):
    noticed = threading.Event()

    class Notice(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            noticed.set()

    async def run(_request, _context):
        stand_in_the_way()
        return RESPONSE

    def stand_in_the_way() -> None:
        block(10, until=noticed.is_set)

    log = logging.getLogger("outlast.engine.watchdog")
    handler = Notice()
    log.addHandler(handler)
    stack.callback(log.removeHandler, handler)
    engine = await started(stack, store, run)
    name = await begin(engine)
    await engine.manager.wait(name, None)

    text = next(it.getMessage() for it in caplog.records if it.name == log.name)
    assert f"in the handler of operation {name}" in text
    assert "stand_in_the_way" in text


async def test_a_loop_that_turns_is_left_alone(stack, store, caplog):
    async def run(_request, _context):
        await asyncio.sleep(2 * LEASE.total_seconds())
        return RESPONSE

    engine = await started(stack, store, run)
    done = await engine.manager.wait(await begin(engine), None)

    assert done.state is State.SUCCEEDED
    assert not caplog.records


async def test_the_thread_ends_with_its_engine(store):
    async with AsyncExitStack() as stack:
        await started(stack, store, lambda *_: None)
        (thread,) = [it for it in threading.enumerate() if it.name == "outlast-watchdog"]
    thread.join(5)
    assert not thread.is_alive()
