"""How soon another node runs what a dead one ran, and how soon a handler hears of a cancel."""

import asyncio
import random
import time

from google.longrunning import operations_pb2
from google.protobuf.duration_pb2 import Duration
from outlastapi.script.v1 import script_pb2

from benchmarks.load import percentile
from benchmarks.postgres.database import DatabaseServer
from benchmarks.postgres.figures import milliseconds, verdict
from benchmarks.postgres.nodes import Node, node, start_node

_LONG = script_pb2.RunScriptRequest(steps=[script_pb2.Step(sleep=Duration(seconds=60))])
_EXTRA_SECONDS = 1.0
"""How much longer than the lease a failover may take."""


async def measure(server: DatabaseServer, *, quick: bool) -> None:
    """Print both."""
    lease = 1.0 if quick else 2.0
    with server.database() as url:
        took = await _fail_over(url, lease, trials=1 if quick else 10)
    print(f"\nFailover: kill -9 to the handler on the other node, lease {lease:g} s")
    print(
        f"{f'{len(took)} kills, s':34}median {percentile(took, 0.5):.2f}  max {max(took):.2f}   "
        + verdict(max(took), lease + _EXTRA_SECONDS, unit=" s (lease + 1 s)")
    )
    with server.database() as url:
        heard, done = await _cancel(url, trials=3 if quick else 100)
    print(f"\nCancel on one node, handler on another, {len(heard)} one after the other, ms")
    print(f"{'':34}{'p50':>10}{'max':>10}")
    for name, seconds in {"call to CancelledError": heard, "call to WaitOperation": done}.items():
        limit = verdict(max(seconds) * 1000, 1000, unit=" ms")
        print(f"{name:34}{milliseconds(seconds, 0.5, 1)}   {limit}")


async def _fail_over(url: str, lease: float, trials: int) -> list[float]:
    options = ("--lease", f"{lease}s")
    victim, heir = await asyncio.gather(*(start_node(url, *options) for _ in range(2)))
    took = []
    try:
        for _ in range(trials):
            started = await victim.scripts.RunScript(_LONG)
            victim, heir = await _runner_first(victim, heir, started.name)
            await asyncio.sleep(random.uniform(0, lease))  # anywhere between two renewals
            killed = time.monotonic()
            await victim.kill()
            async with asyncio.timeout(lease + 30):
                took.append(await heir.told("running", started.name) - killed)
            await _cancel_one(heir, started.name)
            victim, heir = heir, await start_node(url, *options)
    finally:
        await asyncio.gather(victim.stop(), heir.stop())
    return took


async def _runner_first(one: Node, other: Node, name: str) -> tuple[Node, Node]:
    """Return two nodes, the one that runs an operation first."""
    told = {asyncio.ensure_future(it.told("running", name)): it for it in (one, other)}
    (running, *_), waiting = await asyncio.wait(told, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    await asyncio.wait(told)
    return (one, other) if told[running] is one else (other, one)


async def _cancel(url: str, trials: int) -> tuple[list[float], list[float]]:
    heard, done = [], []
    async with node(url, "--no-execute") as asking, node(url) as running:
        for _ in range(trials):
            started = await asking.scripts.RunScript(_LONG)
            await running.told("running", started.name)
            request = operations_pb2.WaitOperationRequest(name=started.name)
            waiting = asyncio.ensure_future(asking.operations.WaitOperation(request))
            await asyncio.sleep(random.uniform(0.02, 0.05))  # until it is parked
            asked = time.monotonic()
            await _cancel_one(asking, started.name)
            heard.append(await running.told("cancelled", started.name) - asked)
            if not (await waiting).done:
                raise RuntimeError("not done after a wait")
            done.append(time.monotonic() - asked)
    return heard, done


async def _cancel_one(at: Node, name: str) -> None:
    await at.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=name))
