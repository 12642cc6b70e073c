"""`python -m benchmarks.postgres.queues SYSTEM URL SETTING CASE…`: time a system in this process.

A case is `single:CALLERS:OPERATIONS`, `bulk:0:OPERATIONS`, `wait:CALLERS:OPERATIONS` or
`latency:1:OPERATIONS`. What came of them is printed as JSON, in their order.
"""

import asyncio
import importlib
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import psycopg
import uvloop

from benchmarks.postgres.database import DatabaseServer
from benchmarks.postgres.queues.contract import Queue, Runs
from outlast.server.garbage import collect_garbage_seldom

_WARM_UP = 200
_POLL_SECONDS = 0.002
_IDLE_SECONDS = 0.01
"""A pause that makes sure that the system has nothing to do when the next operation comes."""


class Timer:
    """Times the cases of one system."""

    def __init__(self, queue: Queue, runs: Runs, server: DatabaseServer) -> None:
        self._queue = queue
        self._runs = runs
        self._url = server.url
        self._used = server.processor_seconds

    async def rate(self, kind: str, callers: int, operations: int) -> dict[str, float]:
        """Return operations a second from start to done, and what one costs whom, in seconds."""
        if kind == "bulk":
            if self._queue.enqueue_all is None:
                raise ValueError("this system enqueues one at a time")
            giving = self._queue.enqueue_all(operations)
        else:
            give = self._queue.run if kind == "wait" else self._queue.enqueue
            if give is None:
                raise ValueError("this system does not tell when an operation is done")
            giving = _closed_loop(give, callers, operations)
        async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as connection:
            self._runs.expect(operations)
            began, used, of_server = time.monotonic(), time.process_time(), self._used()
            await giving
            await self._runs.all_ran()
            await self._until_committed(connection)
            return {
                "per_second": operations / (time.monotonic() - began),
                "process": (time.process_time() - used) / operations,
                "database": (self._used() - of_server) / operations,
            }

    async def latency(self, operations: int) -> dict[str, Sequence[float]]:
        """Return how many seconds after the call, and its reply, each handler ran."""
        since_call, since_reply = [], []
        for _ in range(operations):
            await asyncio.sleep(_IDLE_SECONDS)
            self._runs.expect(1)
            called = time.monotonic()
            await self._queue.enqueue()
            replied = time.monotonic()
            await self._runs.all_ran()
            since_call.append(self._runs.last - called)
            since_reply.append(self._runs.last - replied)
        return {"call": since_call, "reply": since_reply}

    async def _until_committed(self, connection: psycopg.AsyncConnection[Any]) -> None:
        query = self._queue.unfinished.encode()
        while True:
            cursor = await connection.execute(query)
            if await cursor.fetchone() == (0,):
                return
            await asyncio.sleep(_POLL_SECONDS)


async def _closed_loop(
    call: Callable[[], Awaitable[object]], callers: int, operations: int
) -> None:
    left = iter(range(operations))

    async def caller() -> None:
        for _ in left:
            await call()

    await asyncio.gather(*(caller() for _ in range(callers)))


async def _measure(system: str, url: str, setting: int, cases: Sequence[str]) -> Sequence[object]:
    module = importlib.import_module(f"benchmarks.postgres.queues.{system}")
    runs = Runs()
    results: list[object] = []
    async with module.opened(url, setting, runs) as queue:
        timer = Timer(queue, runs, DatabaseServer(url))
        await timer.rate("single", 16, _WARM_UP)
        for case in cases:
            kind, callers, operations = case.split(":")
            if kind == "latency":
                results.append(await timer.latency(int(operations)))
            else:
                results.append(await timer.rate(kind, int(callers), int(operations)))
    return results


def main() -> None:
    """Time what the arguments name."""
    system, url, setting, *cases = sys.argv[1:]
    collect_garbage_seldom()  # as `outlast serve` does, for all that are measured
    print(json.dumps(uvloop.run(_measure(system, url, int(setting), cases))))


if __name__ == "__main__":
    main()
