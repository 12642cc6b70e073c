"""One run: servers, trouble, callers, and the end in peace."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.chaos.checker import Anomaly, check
from tests.chaos.clients import Client, Recorder
from tests.chaos.history import History, Snapshot, read_entries
from tests.chaos.servers import (
    Server,
    count_refused,
    faults,
    file_faults,
    started,
    trouble,
    unfinished,
)

SERVERS = 3
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
        """Return the figures, in a line."""
        calls, outages = self.history.calls, Counter(it.kind for it in self.history.outages)
        answered = sum(call.code in {"OK", "NOT_FOUND"} for call in calls)
        states = Counter(it.state.lower() for it in self.history.final.values())
        operations = len({entry.name for entry in self.history.entries})
        runs = sum(entry.event == "began" for entry in self.history.entries)
        return (
            f"{operations} operations ({_listed(states)}), {runs} attempts, "
            f"{len(calls)} calls ({answered} answered), {outages['kill']} kills, "
            f"{outages['pause']} stops, {outages['restart']} restarts, "
            f"{self.refused} refused writes, {len(self.anomalies)} anomalies"
        )


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))


async def run(folder: Path, *, seconds: float, seed: int) -> Report:
    """Have a load for so many seconds, and trouble; let everything end, and check what was seen."""
    recorder = Recorder()
    async with started(folder, SERVERS) as servers:
        clients = [
            Client(number, servers, recorder, Random(f"{seed} client {number}"))
            for number in range(CLIENTS)
        ]
        async with asyncio.TaskGroup() as group:
            for server in servers:
                chance = Random(f"{seed} {server.name}")
                group.create_task(trouble(server, chance, _TROUBLED * seconds))
            for client in clients:
                group.create_task(client.live(seconds))
        await _finish(folder)
        final = await _look_around(recorder, clients, servers)
        await asyncio.gather(*(server.stop() for server in servers))
        history = History(
            calls=recorder.calls,
            entries=read_entries(folder / "audit"),
            outages=[outage for server in servers for outage in server.outages],
            final=final,
            unfinished=unfinished(folder),
            faults=[*recorder.faults, *faults(servers), *file_faults(folder)],
        )
        return Report(history, count_refused(servers), check(history))


async def _finish(folder: Path) -> None:
    """Return when nothing is left to run, or when that takes too long."""
    end = time.monotonic() + _FINISH_SECONDS
    while await asyncio.to_thread(unfinished, folder) and time.monotonic() < end:  # noqa: ASYNC110
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
