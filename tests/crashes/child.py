"""A caller and a worker on one store, in a process that may die at a commit.

`child.py FOLDER [POINT OCCURRENCE]` does the same work every time: what an earlier
process has left is gone on with. What is said to the caller and what the handlers do
is written to `journal` in the folder, a line of JSON each. A point is `before-` or
`after-`, the verb that is written, and `-commit`.
"""

import asyncio
import json
import os
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from outlast.domain.errors import OperationNotFoundError
from outlast.domain.operation import Operation, Progress
from outlast.domain.status import Code, Payload, Status
from outlast.engine.clock import SystemClock
from outlast.engine.context import ExecutionContext
from outlast.engine.engine import Engine
from outlast.engine.manager import StartRequest
from outlast.engine.methods import Method
from outlast.engine.outcome import AttemptFailedError
from outlast.engine.settings import EngineSettings
from outlast.stores.sqlite import SqliteStore, commands, redriving, taking, writer
from outlast.stores.sqlite.transaction import Command, Transaction

DIED = 86
"""How a process ends at its point."""
STEPS = ("first", "second", "third")
SETTINGS = EngineSettings(
    lease=timedelta(milliseconds=500),
    poll_interval=timedelta(milliseconds=100),
    waiter_poll_interval=timedelta(milliseconds=200),
    expire_interval=timedelta(milliseconds=50),
)
_KINDS = {
    commands.Insert: "insert",
    taking.TakeReady: "claim",
    commands.Renew: "renew",
    commands.RecordStep: "step",
    commands.Expire: "expire",
    redriving.Redrive: "redrive",
}
_CHANGES = {
    "SqliteStore.record_progress": "progress",
    "SqliteStore.finish": "finish",
    "SqliteStore.delete": "delete",
    "request_cancel": "cancel",
}


class Journal:
    """What was said and done, in this process and those before it."""

    def __init__(self, folder: Path) -> None:
        path = folder / "journal"
        lines = path.read_text().splitlines() if path.exists() else []
        self.before: Sequence[Sequence[str]] = [json.loads(line) for line in lines]
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.write("process")

    def write(self, *words: str) -> None:
        """Add a line; it is there whatever becomes of the process."""
        os.write(self._file, json.dumps(words).encode() + b"\n")

    def said(self, *words: str) -> str | None:
        """Return what followed these words, in an earlier process; None if they were not said."""
        count = len(words)
        found = (line[count:] for line in self.before if tuple(line[:count]) == words)
        rest = next(found, None)
        return None if rest is None else "".join(rest)


# Dying.


def verb_of(command: Command[Any]) -> str | None:
    """Return what a command of the writer does."""
    if isinstance(command, commands.Update):
        return _CHANGES[command.change.__qualname__.partition(".<")[0]]
    return _KINDS.get(type(command))


def did_something(result: Any) -> bool:
    """Whether a command, by its result, has written anything."""
    return bool(result.claims if hasattr(result, "claims") else result != 0)


def die_at(point: str, occurrence: int) -> None:
    """Have this process end at a commit that writes what a verb does, the so many-th one."""
    moment, verb, _ = point.split("-")
    run_jobs = writer.run_jobs
    left = occurrence
    due = False

    def watched(transaction: Transaction, jobs: Sequence[Any]) -> None:
        nonlocal left, due
        run_jobs(transaction, jobs)
        done = [job for job in jobs if job.error is None and did_something(job.result)]
        left -= any(verb_of(job.command) == verb for job in done)
        due = left == 0

    class Dying(sqlite3.Connection):
        def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
            if sql != "COMMIT" or not due:
                return super().execute(sql, parameters)
            if moment == "after":
                super().execute(sql, parameters)
            os._exit(DIED)

    writer.run_jobs = watched
    sqlite3.connect = partial(sqlite3.connect, factory=Dying)


# The worker.


class Handler:
    """Does what a request says, and writes down what it does."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def __call__(self, request: Payload, context: ExecutionContext) -> Payload:
        operation = context.operation
        self._journal.write("began", operation.name, str(operation.lease_epoch))
        match request.value.decode():
            case "endless":
                await asyncio.sleep(3600)
            case "fail":
                raise AttemptFailedError(Status(Code.ABORTED, "as it was told to"))
            case _:
                for number, key in enumerate(STEPS):
                    await self._step(context, key)
                    await context.report(Progress(number + 1, len(STEPS)), Payload("metadata"))
        return Payload("response", os.urandom(8))

    async def _step(self, context: ExecutionContext, key: str) -> None:
        if await context.recorded_step(key) is None:
            self._journal.write("ran", context.operation.name, key)
            await asyncio.sleep(0.08)
            await context.record_step(key, Payload("step", key.encode()))
            self._journal.write("recorded", context.operation.name, key)


# The caller.


class Caller:
    """Asks for what was not answered before, and writes down each question and answer."""

    def __init__(self, engine: Engine, journal: Journal, folder: Path) -> None:
        self._engine = engine
        self._folder = folder
        self._manager = engine.manager
        self._journal = journal
        self._names: dict[str, str] = {}

    async def start_all(self) -> None:
        """Start what is not gone already."""
        for request_id, kind in REQUESTS.items():
            known = self._journal.said("started", request_id)
            if known is not None:
                self._names[request_id] = known
            if known is None or kind not in PASSING:
                self._names[request_id] = await self._start(request_id, kind)

    async def _start(self, request_id: str, kind: str) -> str:
        self._journal.write("starting", request_id)
        request = StartRequest(
            method=self._engine.methods["brief" if kind == "brief" else "lasting"],
            request=Payload("request", kind.encode()),
            digest=kind.encode(),
            request_id=request_id,
        )
        operation = await self._manager.start(request)
        self._journal.write("started", request_id, operation.name)
        return operation.name

    async def use_all(self) -> None:
        """Do the rest, and return when nothing is left to be done or forgotten."""
        await asyncio.gather(*(self._use(it, kind) for it, kind in REQUESTS.items()))
        # Hidden work and the sweeper tell nobody of what they have done.
        while await self._goes_on():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        brief = [self._names[it] for it, kind in REQUESTS.items() if kind == "brief"]
        while kept(self._folder) & set(brief):  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def _goes_on(self) -> bool:
        stats = await self._manager.stats()
        return any(it.ready or it.delayed or it.running for it in stats)

    async def _use(self, request_id: str, kind: str) -> None:
        name = self._names[request_id]
        match kind:
            case "work":
                await self._done(name)
            case "endless":
                await asyncio.sleep(0.3)
                await self._cancel(name)
                await self._done(name)
            case "fail":
                await self._done(name)
                await self._redrive(name)
            case "hidden":
                await asyncio.sleep(0.1)
                await self._delete(name)
            case "dropped":
                if self._journal.said("deleting", name) is None:
                    await self._done(name)
                await self._delete(name)

    async def _done(self, name: str) -> Operation:
        operation = await self._manager.wait(name, 20)
        assert operation.done
        response = operation.response.value.hex() if operation.response else ""
        self._journal.write("told", name, operation.state, response, str(operation.end_time))
        return operation

    async def _cancel(self, name: str) -> None:
        await self._manager.cancel(name)
        self._journal.write("cancelled", name)

    async def _delete(self, name: str) -> None:
        if self._journal.said("deleted", name) is not None:
            return
        self._journal.write("deleting", name)
        with suppress(OperationNotFoundError):  # what was asked for before may have been done
            await self._manager.delete(name)
        self._journal.write("deleted", name)

    async def _redrive(self, name: str) -> None:
        again = await self._manager.redrive_once(name)
        if again is not None:
            self._journal.write("redriven", name, again.name)


def kept(folder: Path) -> set[str]:
    """Return the names of all that is in the file, also of what no reader sees any more."""
    with closing(sqlite3.connect(folder / "operations.db")) as database:
        return {name for (name,) in database.execute("SELECT name FROM operations")}


REQUESTS = {
    "work-1": "work",
    "work-2": "work",
    "endless": "endless",
    "hidden": "hidden",
    "brief-1": "brief",
    "fail": "fail",
    "dropped": "dropped",
    "brief-2": "brief",
}
"""What is asked for: kinds by request_id."""
PASSING = {"hidden", "dropped", "brief"}
"""Their request_id is free again when they are gone."""


async def main(folder: Path) -> None:
    """Do all the work that is left."""
    journal = Journal(folder)
    clock = SystemClock()
    async with (
        SqliteStore.open(folder / "operations.db", clock=clock) as store,
        Engine.open(store, clock, SETTINGS) as engine,
    ):
        handler = Handler(journal)
        engine.register(Method(name="lasting", run=handler, metadata_type="metadata"))
        brief = timedelta(milliseconds=100)
        engine.register(
            Method(name="brief", run=handler, metadata_type="metadata", retention=brief)
        )
        caller = Caller(engine, journal, folder)
        if not journal.before:
            engine.start()
        await caller.start_all()
        if journal.before:
            engine.start()
        await caller.use_all()


if __name__ == "__main__":
    if len(sys.argv) > 2:
        die_at(sys.argv[2], int(sys.argv[3]))
    asyncio.run(main(Path(sys.argv[1])))
