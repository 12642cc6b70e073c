"""No-ops from start to done, and how soon a handler runs: Outlast beside other queues.

Every system runs in one process that enqueues and works, on a database of its own on the same
server, with uvloop. The systems take turns, so that what disturbs the machine disturbs all of
them. First the settings of each are tried; the best one is kept, and is in its row.
"""

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from statistics import median
from typing import Any

from benchmarks.load import percentile
from benchmarks.postgres.database import DatabaseServer
from benchmarks.postgres.figures import milliseconds, verdict

_CALLERS = (64, 256)
_SHAPES = {
    "single": "one commit each",
    "bulk": "all at once, in one commit",
    "wait": "one commit each, and each waited for",
}


@dataclass(frozen=True)
class System:
    """What is measured, and what is to be known of it."""

    name: str
    modules: Sequence[str]
    """What must be installed."""
    setting: str
    settings: Sequence[int]
    """The values of its setting that are tried, the one for a short run first."""
    operations: int
    """How many make a round of a few seconds."""
    promises: Mapping[str, str]
    shapes: Sequence[str] = ("single",)
    slower: float = 1.0
    """By how much Outlast is to be faster."""

    @property
    def missing(self) -> Sequence[str]:
        """What it lacks here."""
        return [name for name in self.modules if find_spec(name) is None]


OUTLAST = System(
    name="outlast",
    modules=(),
    setting="concurrency",
    settings=(64, 256),
    operations=8000,
    shapes=("single", "wait"),
    promises={
        "enqueue": "committed before it returns",
        "end": "committed before anybody hears of it",
        "fenced": "yes: a zombie's completion is refused",
        "callers": "are told (wait)",
    },
)
PEERS = (
    System(
        name="pgqueuer",
        modules=("pgqueuer", "asyncpg"),
        setting="batch_size",
        settings=(50, 10, 100),
        operations=4000,
        shapes=("single", "bulk"),
        promises={
            "enqueue": "committed before it returns",
            "end": "buffered, up to batch_size or 0.1 s",
            "fenced": "no",
            "callers": "may ask (CompletionWatcher)",
        },
    ),
    System(
        name="procrastinate",
        modules=("procrastinate",),
        setting="concurrency",
        settings=(16, 1, 64),
        operations=600,
        shapes=("single", "bulk"),
        slower=10,
        promises={
            "enqueue": "committed before it returns",
            "end": "committed, one by one",
            "fenced": "no",
            "callers": "may poll the job's status",
        },
    ),
    System(
        name="dbos",
        modules=("dbos",),
        setting="polling ms",
        settings=(10, 50, 200),
        operations=600,
        slower=10,
        promises={
            "enqueue": "committed before it returns",
            "end": "committed, one by one",
            "fenced": "yes",
            "callers": "poll (get_result)",
        },
    ),
)
Cases = Sequence[tuple[str, int]]
Rates = dict[tuple[str, str, int], list[dict[str, float]]]


def installed_peers() -> Sequence[System]:
    """Return the peers that can be measured; print a line for each that cannot."""
    for peer in PEERS:
        if peer.missing:
            print(
                f"skipped: {peer.name}: not installed: {', '.join(peer.missing)} "
                "(`make bench-postgres` installs them)"
            )
    return [peer for peer in PEERS if not peer.missing]


def versions() -> Sequence[str]:
    """Return the versions of the peers that are installed."""
    names = [name for peer in PEERS if not peer.missing for name in peer.modules]
    return [f"{name} {version(name)}" for name in dict.fromkeys(names)]


async def measure_rates(server: DatabaseServer, *, peers: Sequence[System], quick: bool) -> None:
    """Print how many no-ops a second each system takes from start to done."""
    rounds, share = (1, 0.05) if quick else (3, 1.0)
    systems = [OUTLAST, *peers]
    chosen = {it.name: await _best_setting(server, it, quick=quick) for it in systems}
    rates: Rates = {}
    for _ in range(rounds):
        for system in systems:
            cases = _cases(system)
            count = int(system.operations * share)
            texts = [f"{kind}:{callers}:{count}" for kind, callers in cases]
            results = await _run(server, system, chosen[system.name], texts)
            for case, result in zip(cases, results, strict=True):
                rates.setdefault((system.name, *case), []).append(result)
    print(f"\nNo-ops from start to done, one process, median of {rounds} rounds in turn")
    print("until every handler has run and every end is committed")
    print(f"{'':60}{'µs of processor time':>19}{'Outlast is':>20}")
    print(
        f"{'':40}{'callers':>8}{'per second':>12}{'process':>9}{'database':>10}"
        f"{'as fast':>10}{'cheaper':>10}"
    )
    for system in systems:
        count = int(system.operations * share)
        print(f"{system.name}, {system.setting} {chosen[system.name]}, {count} operations")
        _print_system(system, rates)


async def measure_dispatch(server: DatabaseServer, *, peers: Sequence[System], quick: bool) -> None:
    """Print how soon a handler runs in the process that started its operation."""
    count = 20 if quick else 200
    print(f"\nFrom start to the handler, idle, in one process, {count} one after the other, ms")
    print(f"{'':40}{'since the call':>20}{'since the reply':>20}")
    print(f"{'':40}{'p50':>10}{'p99':>10}{'p50':>10}{'p99':>10}")
    for system in (OUTLAST, *peers):
        (found,) = await _run(server, system, system.settings[0], [f"latency:1:{count}"])
        line = milliseconds(found["call"], 0.5, 0.99) + milliseconds(found["reply"], 0.5, 0.99)
        if system is OUTLAST:
            line += "   " + verdict(percentile(found["reply"], 0.5) * 1000, 5, unit=" ms p50")
        print(f"{f'{system.name} ({system.setting} {system.settings[0]})':40}{line}")


def _cases(system: System) -> Cases:
    return [
        (shape, callers)
        for shape in system.shapes
        for callers in ((0,) if shape == "bulk" else _CALLERS)
    ]


async def _best_setting(server: DatabaseServer, system: System, *, quick: bool) -> int:
    if quick:
        return system.settings[0]
    case = f"single:{_CALLERS[0]}:{system.operations // 2}"
    rates = {
        it: (await _run(server, system, it, [case]))[0]["per_second"] for it in system.settings
    }
    tried = ", ".join(f"{setting}: {rate:,.0f}/s" for setting, rate in rates.items())
    print(f"{system.name}, {system.setting} tried: {tried}")
    return max(rates, key=rates.__getitem__)


async def _run(
    server: DatabaseServer, system: System, setting: int, cases: Sequence[str]
) -> Sequence[Any]:
    """Have cases timed in a process of their own, on an empty database."""
    module = "benchmarks.postgres.queues"
    with server.database() as url:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, system.name, url, str(setting), *cases),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{system.name} ended with {process.returncode}")
    results: list[Any] = json.loads(output.splitlines()[-1])
    return results


def _print_system(system: System, rates: Rates) -> None:
    for kind, callers in _cases(system):
        found = rates[system.name, kind, callers]
        rate, own, database = (
            median(it[what] for it in found) for what in ("per_second", "process", "database")
        )
        line = f"  {_SHAPES[kind]:38}{callers or '':>8}{rate:12,.0f}{own * 1e6:9,.0f}"
        line += f"{database * 1e6:10,.0f}"
        if system is not OUTLAST:
            base = rates[OUTLAST.name, "single", callers or _CALLERS[-1]]
            pairs = list(zip(base, found, strict=True))
            faster = median(ours["per_second"] / theirs["per_second"] for ours, theirs in pairs)
            cheaper = median(
                _processor_time(theirs) / _processor_time(ours) for ours, theirs in pairs
            )
            line += f"{faster:8.2f} ×{cheaper:8.2f} ×"
            if kind == "single":
                line += "   " + verdict(faster, system.slower, at_least=True, unit=" ×")
            else:
                line += f"   one by one, {_CALLERS[-1]} callers"
        print(line)
    for what, promise in system.promises.items():
        print(f"    {what + ':':9}{promise}")


def _processor_time(result: Mapping[str, float]) -> float:
    return result["process"] + result["database"]
