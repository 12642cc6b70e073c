"""One run: servers, trouble, callers, and the end in peace."""

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.chaos.checker import Anomaly, check
from tests.chaos.clients import Client, Recorder
from tests.chaos.history import History, Snapshot, read_entries
from tests.chaos.servers import Server, count_refused, faults, started, trouble
from tests.chaos.stores import Store, opened

SERVERS = 3
WORKERS = {"sqlite": 0, "postgres": 1}
"""How many processes work only."""
CLIENTS = 16

_TROUBLED = 0.85
"""The part of the time in which there is trouble: in the rest callers have no excuse."""
_FINISH_SECONDS = 60.0
"""How long the servers may take in peace for what is left."""


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a run."""

    history: History
    refused: int
    anomalies: Sequence[Anomaly]

    def summary(self) -> str:
        """Return the figures, a line for each kind of thing; what a line counts adds up."""
        history = self.history
        runs = sum(entry.event == "began" for entry in history.entries)
        deleted = {call.name for call in history.calls if call.kind == "delete"}
        ends = Counter(_end_of(name, history, deleted) for name in _operations(history))
        answers = Counter(_ANSWERS.get(call.code, _REFUSED) for call in history.calls)
        troubles = Counter(_TROUBLES[it.kind] for it in history.outages)
        return "\n".join(
            (
                f"{_sum(ends)} operations: {_listed(ends, _ENDS)}",
                f"{runs} attempts at them; {self.refused} late writes of replaced ones refused",
                f"{_sum(answers)} calls: {_listed(answers, _CALLS)}",
                f"{_sum(troubles)} troubles of servers: {_listed(troubles, _TROUBLES.values())}",
                f"{len(self.anomalies)} anomalies",
            )
        )


_ENDS = ("succeeded", "failed", "cancelled", "unfinished", "deleted by callers", "lost")
_ANSWERS = {
    "OK": "answered",
    "NOT_FOUND": "answered",
    "DEADLINE_EXCEEDED": "given up by the caller at its deadline",
    "CANCELLED": "cut off with the process that had them",
}
_REFUSED = "refused or not reaching a server"
_CALLS = tuple(dict.fromkeys(["answered", _REFUSED, *_ANSWERS.values()]))
_TROUBLES = {
    "kill": "killed and started again at once",
    "pause": "paused for a while or until killed",
    "restart": "restarted in an orderly way",
    "crash": "crashes of the database",
    "deafen": "ends of the sessions that listen to it",
    "cut off": "ends of all sessions",
    "drop": "cuts of all connections to it",
}


def _operations(history: History) -> set[str]:
    """Return the names of all operations that there were."""
    started = {it.snapshots[0].name for it in history.calls if it.kind == "start" and it.snapshots}
    return started | {it.name for it in history.entries} | {*history.final, *history.unfinished}


def _end_of(name: str, history: History, deleted: Collection[str]) -> str:
    """Return what became of an operation."""
    final = history.final.get(name)
    if name in history.unfinished or (final is not None and not final.done):
        return "unfinished"
    if final is not None:
        return final.state.lower()
    return "deleted by callers" if name in deleted else "lost"


def _sum(counts: Counter[str]) -> int:
    return sum(counts.values())


def _listed(counts: Counter[str], order: Iterable[str]) -> str:
    return ", ".join(f"{counts[what]} {what}" for what in order)


async def run(folder: Path, *, seconds: float, seed: int, kind: str = "sqlite") -> Report:
    """Have a load for so many seconds, and trouble; let everything end, and check what was seen."""
    recorder = Recorder()
    async with (
        opened(kind, folder) as store,
        started(folder, store.argument, SERVERS, WORKERS[kind]) as (servers, workers),
    ):
        clients = [
            Client(number, servers, recorder, Random(f"{seed} client {number}"))
            for number in range(CLIENTS)
        ]
        processes = [*servers, *workers]
        async with asyncio.TaskGroup() as group:
            for server in processes:
                chance = Random(f"{seed} {server.name}")
                group.create_task(trouble(server, chance, _TROUBLED * seconds))
            group.create_task(store.trouble(Random(f"{seed} store"), _TROUBLED * seconds))
            for client in clients:
                group.create_task(client.live(seconds))
        await _finish(store)
        final = await _look_around(recorder, clients, servers)
        await asyncio.gather(*(server.stop() for server in processes))
        outages = [outage for server in processes for outage in server.outages]
        history = History(
            calls=recorder.calls,
            entries=read_entries(folder / "audit"),
            outages=[*outages, *store.outages],
            final=final,
            unfinished=store.unfinished(),
            faults=[*recorder.faults, *faults(processes), *store.faults()],
        )
        return Report(history, count_refused(processes), check(history))


async def _finish(store: Store) -> None:
    """Return when nothing is left to run, or when that takes too long."""
    end = time.monotonic() + _FINISH_SECONDS
    while await asyncio.to_thread(store.unfinished) and time.monotonic() < end:  # noqa: ASYNC110
        await asyncio.sleep(0.1)


async def _look_around(
    recorder: Recorder, clients: Sequence[Client], servers: Sequence[Server]
) -> dict[str, Snapshot]:
    """Ask every server for everything; return what the last one lists."""
    final: dict[str, Snapshot] = {}
    for server in servers:
        lists = [await recorder.list([server].pop, it.parent, 1000) for it in clients]
        final = {each.name: each for call in lists for each in call.snapshots}
    known = {it.snapshots[0].name for it in recorder.calls if it.kind == "start" and it.snapshots}
    for name in known:
        await recorder.get(servers[0], name)
    return final
