"""Latency over gRPC: start to handler, and the end of the work to WaitOperation, across nodes too."""

from benchmarks.latency import sample
from benchmarks.load import percentile
from benchmarks.postgres.database import DatabaseServer
from benchmarks.postgres.figures import milliseconds, verdict
from benchmarks.postgres.nodes import node


async def measure(server: DatabaseServer, *, quick: bool) -> None:
    """Print the latencies of one node that does all, and of two that share the work."""
    count = 20 if quick else 300
    with server.database() as url:
        async with node(url, service="NoOpScripts") as alone:
            same = await sample(alone.address, count)
    with server.database() as url:
        async with (
            node(url, "--no-execute", service="NoOpScripts") as asking,
            node(url, service="NoOpScripts"),
        ):
            across = await sample(asking.address, count)
    print(f"\nOver gRPC, idle, {count} operations one after the other, ms")
    print(f"{'':46}{'p50':>10}{'p99':>10}")
    for where, (to_handler, to_reply) in {"one node": same, "two nodes": across}.items():
        target = verdict(percentile(to_handler, 0.5) * 1000, 5, unit=" ms p50")
        _print(f"{where}, start reply to handler", to_handler, target)
        target = verdict(percentile(to_reply, 0.99) * 1000, 25, unit=" ms p99")
        _print(f"{where}, end of the work to WaitOperation", to_reply, target)


def _print(name: str, seconds: list[float], target: str) -> None:
    print(f"{name:46}{milliseconds(seconds, 0.5, 0.99)}   {target}")
