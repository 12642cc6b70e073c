"""An engine on a store that fails on demand, under a clock that the test moves."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from outlast.domain.operation import Claim, Operation
from outlast.domain.status import Payload
from outlast.engine.context import ExecutionContext
from outlast.engine.engine import Engine
from outlast.engine.methods import Method
from outlast.engine.settings import EngineSettings
from outlast.ports import OperationStore
from outlast.stores.memory import MemoryStore
from outlast.stores.sqlite import SqliteStore
from outlast.testing.clock import ManualClock
from outlast.testing.faults import FaultyStore

METHOD = "example.v1.Books/Print"
REQUEST = Payload("example.v1.Request", b"request")
RESPONSE = Payload("example.v1.Book", b"response")
LEASE = timedelta(seconds=30)

Run = Callable[[Payload, ExecutionContext], Awaitable[Payload]]


class Handler:
    """A handler that works until it is let go, and remembers what befell it."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.began = asyncio.Event()
        """Set whenever an attempt begins; clear it to wait for the next one."""
        self.contexts: list[ExecutionContext] = []
        self.active = 0
        self.peak = 0
        self.cancelled = 0
        self.stubborn = False
        """Whether it swallows being told to stop, and works on."""
        self.error: BaseException | None = None
        """What it raises when it is let go."""

    @property
    def attempts(self) -> int:
        """How often it was run."""
        return len(self.contexts)

    @property
    def names(self) -> list[str]:
        """The operations that it was run for, in order."""
        return [context.operation.name for context in self.contexts]

    async def __call__(self, request: Payload, context: ExecutionContext) -> Payload:
        self.contexts.append(context)
        self.began.set()
        self.active += 1
        self.peak = max(self.peak, self.active)
        try:
            await self._work()
        finally:
            self.active -= 1
        if self.error is not None:
            raise self.error
        return RESPONSE

    async def _work(self) -> None:
        while True:
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                if not self.stubborn:
                    raise
            else:
                return


class World:
    """One store, one clock, and as many engines as a test opens."""

    def __init__(self, inner: OperationStore, clock: ManualClock, stack: AsyncExitStack) -> None:
        self.inner = inner
        self.clock = clock
        self.store = self.client()
        """What the engine works on, unless it is given a client of its own."""
        self._stack = stack
        self._ids = count(1)

    def client(self) -> FaultyStore:
        """Another client of the same operations, with faults of its own."""
        return FaultyStore(self.inner, self.clock)

    async def engine(
        self,
        *methods: Method,
        store: OperationStore | None = None,
        execute: bool = True,
        taken: Collection[str] | None = None,
        start: bool = True,
        **settings: Any,
    ) -> Engine:
        """Open an engine, and start it; it is stopped when the test is over."""
        engine = Engine(store or self.store, self.clock, EngineSettings(**settings))
        for method in methods:
            engine.register(method)
        if start:
            engine.start(execute=execute, taken=taken)
        self._stack.push_async_callback(self._stop, engine)
        await self.clock.advance(0)
        return engine

    @staticmethod
    def method(run: Run, name: str = METHOD, **options: Any) -> Method:
        """Return a method that a handler does the work of."""
        return Method(name=name, run=run, metadata_type="example.v1.Metadata", **options)

    async def insert(self, method: str = METHOD, **fields: Any) -> str:
        """Put an operation into the store and return its name."""
        now = self.clock.now()
        defaults: dict[str, Any] = {
            "name": f"operations/op-{next(self._ids):05}",
            "parent": "",
            "method": method,
            "create_time": now,
            "update_time": now,
            "ready_time": now,
            "max_attempts": 3,
        }
        operation = Operation(**(defaults | fields))
        await self.inner.insert(operation, REQUEST)
        return operation.name

    async def begin(self, method: str = METHOD, **fields: Any) -> str:
        """Put an operation into the store and let things happen that need no time."""
        name = await self.insert(method, **fields)
        await self.clock.advance(0)
        return name

    async def get(self, name: str) -> Operation:
        """Return an operation as it is in the store."""
        return await self.inner.get(name)

    async def state(self, name: str) -> str:
        """Return the state that an operation has in the store."""
        return (await self.get(name)).state

    async def take(self, method: str = METHOD, lease: timedelta = LEASE) -> Claim:
        """Claim the one operation that is ready, as another worker would."""
        (claim,) = (await self.inner.claim("rival", {method: 1}, 1, lease)).claims
        return claim

    async def written(self) -> None:
        """Return when every write that was begun so far is over, and what follows from it."""
        await self.inner.renew([], LEASE)
        await self.clock.advance(0)

    async def in_time(self, call: Awaitable[Any], seconds: float = 0.0) -> Any:
        """Return what a call returns within so many seconds of the clock."""
        task = asyncio.ensure_future(call)
        await self.clock.advance(seconds)
        assert task.done(), f"not done within {seconds} s"
        return task.result()

    async def _stop(self, engine: Engine) -> None:
        if isinstance(engine.store, FaultyStore):
            engine.store.heal()
        stopping = asyncio.create_task(engine.stop())
        for _ in range(30):
            await self.written()
            await self.clock.advance(0 if stopping.done() else 10)
        await self.in_time(stopping)
        for method in engine.methods.values():
            if isinstance(method.run, Handler):
                method.run.let_go.set()
        await self.clock.advance(0)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def world(clock: ManualClock) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield World(MemoryStore(clock), clock, stack)


@pytest.fixture
async def durable_world(clock: ManualClock, tmp_path: Path) -> AsyncIterator[World]:
    """A world on SQLite, where calls take real time; see `World.written`."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(
            SqliteStore.open(tmp_path / "operations.db", clock=clock)
        )
        yield World(store, clock, stack)


@pytest.fixture
def handler() -> Handler:
    return Handler()


@pytest.fixture
def new_handler() -> type[Handler]:
    return Handler
