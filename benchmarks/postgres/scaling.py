"""One node against two on one database: what they carry, and what an operation costs whom."""

import asyncio
import resource
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from statistics import median

import grpc

from benchmarks.load import CALLERS
from benchmarks.postgres.database import DatabaseServer
from benchmarks.postgres.nodes import Node, node
from benchmarks.rpc import start_to_done

_CASES = (("one node", 1, CALLERS), ("one node", 1, CALLERS // 2), ("two nodes", 2, CALLERS))
_PARTS = ("servers", "database", "client")


@dataclass(frozen=True)
class Cost:
    """What a round gave: operations a second, and microseconds of processor time for each."""

    per_second: float
    servers: float
    database: float
    client: float


async def measure(server: DatabaseServer, *, quick: bool) -> None:
    """Print start to done over gRPC for one and for two nodes, in turn."""
    rounds, seconds = (1, 0.3) if quick else (3, 5.0)
    async with AsyncExitStack() as stack:
        groups: dict[int, Sequence[Node]] = {}
        for count in (1, 2):
            url = stack.enter_context(server.database())
            starting = [node(url, service="NoOpScripts") for _ in range(count)]
            groups[count] = await asyncio.gather(*map(stack.enter_async_context, starting))
            await _load(server, groups[count], CALLERS, seconds / 4)
        costs: list[list[Cost]] = [[] for _ in _CASES]
        for _ in range(rounds):
            for found, (_, count, callers) in zip(costs, _CASES, strict=True):
                found.append(await _load(server, groups[count], callers, seconds))
    print(f"\nStart to done over gRPC, median of {rounds} rounds in turn")
    print(f"{'':34}{'processor time of each operation, µs':>48}")
    print(
        f"{'':14}{'callers':>8}{'per second':>12}{'servers':>12}{'database':>12}{'client':>12}"
        f"{'all':>12}{'cores busy':>12}"
    )
    for (name, _, callers), found in zip(_CASES, costs, strict=True):
        rate = median(it.per_second for it in found)
        parts = [median(getattr(it, part) for it in found) for part in _PARTS]
        columns = "".join(f"{part:12,.0f}" for part in (*parts, sum(parts)))
        print(f"{name:14}{callers:8}{rate:12,.0f}{columns}{rate * sum(parts) / 1e6:12.2f}")


async def _load(
    server: DatabaseServer, nodes: Sequence[Node], callers: int, seconds: float
) -> Cost:
    """Have callers, each with its node, start one operation after the other and wait for it."""
    count = 0
    channels = [grpc.aio.insecure_channel(it.address) for it in nodes]
    calls = [start_to_done(channel) for channel in channels]
    before = _used(server, nodes)
    began = time.perf_counter()

    async def caller(number: int) -> None:
        nonlocal count
        while time.perf_counter() - began < seconds:
            await calls[number % len(calls)]()
            count += 1

    await asyncio.gather(*(caller(number) for number in range(callers)))
    elapsed = time.perf_counter() - began
    after = _used(server, nodes)
    for channel in channels:
        await channel.close()
    return Cost(
        count / elapsed,
        *((late - early) / count * 1e6 for late, early in zip(after, before, strict=True)),
    )


def _used(server: DatabaseServer, nodes: Sequence[Node]) -> tuple[float, float, float]:
    own = resource.getrusage(resource.RUSAGE_SELF)
    return (
        sum(it.processor_seconds() for it in nodes),
        server.processor_seconds(),
        own.ru_utime + own.ru_stime,
    )
