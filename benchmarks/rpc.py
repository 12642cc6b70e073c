"""Get, durable start, and start to done, each against a bare grpc.aio handler."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from outlastapi.script.v1 import script_pb2, script_pb2_grpc

from benchmarks.load import CALLERS, Measured, ServerProcess, closed_loop, serving

Case = tuple[ServerProcess, Callable[[], Awaitable[object]]]

_TARGETS = {"get": 0.85, "start, execution off": 0.60, "start to done": 0.30}


async def measure(folder: Path, rounds: int, seconds: float) -> None:
    """Load the servers in turn, so that what disturbs the machine disturbs all of them."""
    (folder / "executing").mkdir()
    (folder / "accepting").mkdir()
    with (
        serving("outlast", str(folder / "executing")) as full,
        serving("outlast", str(folder / "accepting"), "--no-execute") as accepting,
    ):
        async with (
            grpc.aio.insecure_channel(full.address) as channel,
            grpc.aio.insecure_channel(accepting.address) as accepting_channel,
        ):
            done = await _run_one(channel)
            with serving("bare", done.SerializeToString().hex()) as bare:
                async with grpc.aio.insecure_channel(bare.address) as bare_channel:
                    cases = {
                        "bare get": (bare, _get(bare_channel, done.name)),
                        "get": (full, _get(channel, done.name)),
                        "bare start": (bare, _start(bare_channel)),
                        "start, execution off": (accepting, _start(accepting_channel)),
                        "start to done": (full, start_to_done(channel)),
                    }
                    _print(await _alternate(cases, rounds, seconds))


async def _alternate(
    cases: dict[str, Case], rounds: int, seconds: float
) -> dict[str, list[Measured]]:
    results: dict[str, list[Measured]] = {name: [] for name in cases}
    for server, call in cases.values():
        await closed_loop(call, server, seconds / 4)
    for _ in range(rounds):
        for name, (server, call) in cases.items():
            results[name].append(await closed_loop(call, server, seconds))
    return results


def _print(results: dict[str, list[Measured]]) -> None:
    print(f"\nRPCs, {CALLERS} callers, median of {len(results['get'])} alternating rounds")
    print(f"{'':22}{'per second':>12}{'server µs':>12}{'of bare':>10}{'target':>8}")
    for name, runs in results.items():
        rate = median(run.per_second for run in runs)
        cost = median(run.server_microseconds for run in runs)
        line = f"{name:22}{rate:12,.0f}{cost:12.0f}"
        if name in _TARGETS:
            against = results["bare get" if name == "get" else "bare start"]
            ratio = median(
                run.per_second / other.per_second for run, other in zip(runs, against, strict=True)
            )
            line += f"{ratio:10.2f}{_TARGETS[name]:8.2f}"
        print(line)


async def _run_one(channel: grpc.aio.Channel) -> operations_pb2.Operation:
    started = await script_pb2_grpc.ScriptServiceStub(channel).RunScript(
        script_pb2.RunScriptRequest()
    )
    operations = operations_pb2_grpc.OperationsStub(channel)
    request = operations_pb2.WaitOperationRequest(name=started.name)
    done: operations_pb2.Operation = await operations.WaitOperation(request)
    return done


def _get(channel: grpc.aio.Channel, name: str) -> Callable[[], Awaitable[object]]:
    stub = operations_pb2_grpc.OperationsStub(channel)
    request = operations_pb2.GetOperationRequest(name=name)
    return lambda: stub.GetOperation(request)


def _start(channel: grpc.aio.Channel) -> Callable[[], Awaitable[object]]:
    stub = script_pb2_grpc.ScriptServiceStub(channel)
    request = script_pb2.RunScriptRequest()
    return lambda: stub.RunScript(request)


def start_to_done(channel: grpc.aio.Channel) -> Callable[[], Awaitable[object]]:
    """Return what starts a no-op and waits until it is done."""

    async def call() -> None:
        operation = await _run_one(channel)
        if not operation.HasField("response"):
            raise RuntimeError(f"not done after a wait: {operation}")

    return call
