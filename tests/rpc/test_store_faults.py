"""What callers hear while the SQLite file of their server cannot be used, and afterwards."""

import asyncio
import os
import random
import sqlite3
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import grpc
import pytest
from google.longrunning import operations_pb2
from google.protobuf import duration_pb2
from outlastapi.script.v1 import script_pb2

import outlast

SECONDS = 2.5
"""How long callers wait while the fault lasts. It outlasts them."""
PAGE = 4096
PARENT = "p/" + "x" * 200


class FailingConnection:
    """Passes everything on to a connection, except that statements of one kind fail."""

    def __init__(self, connection, statement, *, first=False):
        self._connection = connection
        self._statement = statement
        self._first = first
        """Whether the statement is executed first, so that only its answer is lost."""

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def execute(self, sql, *parameters):
        fails = sql.strip().startswith(self._statement)
        result = None if fails and not self._first else self._connection.execute(sql, *parameters)
        if fails:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error
        return result


@contextmanager
def locked(store):
    _, _, path = store._file.reader.execute("PRAGMA database_list").fetchone()
    with closing(sqlite3.connect(path, isolation_level=None, timeout=20)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def full(store):
    store._file.writer.execute("PRAGMA max_page_count = 1")
    try:
        yield
    finally:
        store._file.writer.execute("PRAGMA max_page_count = 1000000")


@contextmanager
def failing_commits(store, *, first=False):
    failing = FailingConnection(store._writer._connection, "COMMIT", first=first)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store._writer, "_connection", failing)
        yield


@contextmanager
def lost_commits(store):
    with failing_commits(store, first=True):
        yield


@contextmanager
def unreadable(store):
    connections = {
        name: FailingConnection(getattr(store._file, name), "SELECT")
        for name in ("reader", "point_reader")
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_file", replace(store._file, **connections))
        yield


class Work:
    """A handler that works until it is let go, and knows for what it was run."""

    def __init__(self):
        self.runs = []
        self.go = asyncio.Event()

    async def __call__(self, _, operation):
        self.runs.append(operation.name)
        await self.go.wait()


def large_request():
    """Return a request for which the file has to grow."""
    steps = [script_pb2.Step(sleep=duration_pb2.Duration(seconds=1))] * 20_000
    return script_pb2.RunScriptRequest(request_id=str(uuid4()), steps=steps)


def calls_to_all_methods(client, starts, *, done, running, cancelled, deleted):
    """Return a call to each method, by what it does, which is over after SECONDS."""
    stub = client.operations
    brief = duration_pb2.Duration(nanos=10**8)
    calls = {
        "get": (stub.GetOperation, operations_pb2.GetOperationRequest(name=done.name)),
        "look": (stub.GetOperation, operations_pb2.GetOperationRequest(name=running.name)),
        "list": (stub.ListOperations, operations_pb2.ListOperationsRequest()),
        "wait": (
            stub.WaitOperation,
            operations_pb2.WaitOperationRequest(name=running.name, timeout=brief),
        ),
        "cancel": (
            stub.CancelOperation,
            operations_pb2.CancelOperationRequest(name=cancelled.name),
        ),
        "delete": (stub.DeleteOperation, operations_pb2.DeleteOperationRequest(name=deleted.name)),
    }
    calls |= {start.request_id: (client.script.RunScript, start) for start in starts}
    return {key: call(request, timeout=SECONDS) for key, (call, request) in calls.items()}


async def answers_to(client, calls):
    """Return what calls are answered; None if they are told, in time, to try again."""

    async def answer(call):
        if (code := await call.code()) is grpc.StatusCode.OK:
            return await call
        assert code is grpc.StatusCode.UNAVAILABLE, await call.details()
        assert (await client.refused(call)).info.reason == "STORE_UNAVAILABLE"
        return None

    return dict(zip(calls, await asyncio.gather(*map(answer, calls.values())), strict=True))


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
@pytest.mark.parametrize("fault", [locked, full, failing_commits, lost_commits, unreadable])
async def test_a_fault_of_the_store_gives_no_wrong_answer_and_loses_nothing(
    serving, scripted, fault
):
    work = Work()
    # What was claimed while answers were lost is run when its lease has ended.
    lease = timedelta(seconds=3 if fault is lost_commits else 30)
    async with serving(scripted(work), lease=lease) as client:
        done, deleted = [await client.done(await client.erase()) for _ in range(2)]
        running, cancelled = await client.run(), await client.run()
        await client.until(lambda: len(work.runs) == 2)
        before = {each.name for each in (done, deleted, running, cancelled)}
        starts = [large_request() for _ in range(3)]
        with fault(client.engine.store):
            answers = await answers_to(
                client,
                calls_to_all_methods(
                    client,
                    starts,
                    done=done,
                    running=running,
                    cancelled=cancelled,
                    deleted=deleted,
                ),
            )
        assert None in answers.values()
        assert answers["get"] in (None, done)
        assert answers["look"] is None or not answers["look"].done
        assert answers["wait"] is None or not answers["wait"].done
        if (listed := answers["list"]) is not None:
            assert {each.name for each in listed.operations} >= before - {deleted.name}

        started = [await client.script.RunScript(start) for start in starts]
        for start, operation in zip(starts, started, strict=True):
            accepted = answers[start.request_id]
            assert accepted is None or accepted.name == operation.name
        await client.cancel(cancelled.name)
        if answers["delete"] is None and deleted.name in await client.names():
            await client.delete(deleted.name)
        work.go.set()
        assert client.reason(await client.done(cancelled)) == "OPERATION_CANCELLED"
        for operation in (running, *started):
            assert (await client.done(operation)).HasField("response")
        assert await client.get(done.name) == done
        kept = {operation.name for operation in (done, running, cancelled, *started)}
        assert sorted(await client.names()) == sorted(kept)
        assert set(work.runs) == kept - {done.name}
        if fault is not lost_commits:  # where leases end
            assert len(work.runs) == len(set(work.runs))
        await client.check_alive()


@contextmanager
def damaged(path, seed):
    """Overwrite every third page of a file that is in use, but for the first."""
    with closing(sqlite3.connect(path, timeout=20)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    noise = random.Random(seed)
    with path.open("r+b") as file:
        for page in range(2, path.stat().st_size // PAGE, 3):
            file.seek(page * PAGE)
            file.write(noise.randbytes(PAGE))
    yield


def damage(path, kept):
    """Overwrite pages of a file that is in use with noise: those that `kept` leaves out."""
    with closing(sqlite3.connect(path, timeout=20)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    noise = random.Random(kept)
    with open(path, "r+b") as file:  # noqa: PTH123  # a str, as servers are told it
        pages = file.seek(0, os.SEEK_END) // PAGE
        for page in range(1, pages):
            if page % 3 != kept:
                file.seek(page * PAGE)
                file.write(noise.randbytes(PAGE))


async def read_everything(client, whole):
    """Check that every read gives what was there or is refused; return how many were refused."""
    stub = client.operations
    gets = {
        name: stub.GetOperation(operations_pb2.GetOperationRequest(name=name), timeout=60)
        for name in whole
    }
    answers = await answers_to(client, gets)
    assert all(answers[name] in (None, whole[name]) for name in whole)
    request = operations_pb2.ListOperationsRequest(name=PARENT, page_size=1000)
    lists = {"list": stub.ListOperations(request, timeout=60)}
    page = (await answers_to(client, lists))["list"]
    if page is not None:
        assert {each.name for each in page.operations} >= set(whole)
    return list(answers.values()).count(None) + (page is None)


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
@pytest.mark.parametrize("kept", range(3))
async def test_a_damaged_file_never_hides_an_operation_nor_changes_one(serving, store, kept):
    async with serving() as client:
        started = [await client.erase(parent=PARENT) for _ in range(40)]
        whole = {}
        for operation in started:
            whole[operation.name] = await client.done(operation)
    patience = timedelta(seconds=0.2)  # what is damaged does not come back
    async with serving(store_patience=patience) as client:
        damage(store, kept)
        refused = await read_everything(client, whole)
    with suppress(outlast.StoreOpenError):
        async with serving(store_patience=patience) as client:
            refused += await read_everything(client, whole)
    assert refused
