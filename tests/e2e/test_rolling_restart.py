"""Servers on one database that are replaced one after the other, while they are called."""

import json
import re
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from uuid import uuid4

import grpc
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from outlastapi.script.v1 import script_pb2, script_pb2_grpc

VERSIONS = """
import asyncio
import json
from pathlib import Path

import outlast
from google.protobuf import empty_pb2
from outlastapi.script.v1 import script_pb2, script_pb2_grpc


class Old(script_pb2_grpc.ScriptServiceServicer):
    @outlast.long_running()
    async def RunScript(self, request, operation):
        self.note(operation)
        await asyncio.sleep(request.steps[0].sleep.ToTimedelta().total_seconds())
        return script_pb2.RunScriptResponse(text=request.request_id)

    def note(self, operation):
        line = [type(self).__name__, operation.name, operation._execution.operation.lease_epoch]
        with open("runs", "ab", buffering=0) as runs:
            runs.write(json.dumps(line).encode() + b"\\n")


class New(Old):
    @outlast.long_running()
    async def EraseScript(self, request, operation):
        self.note(operation)
        return empty_pb2.Empty()
"""
RETRIES = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.2s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }
)
"""What callers do with an error: as Google's clients, who wait longer in between."""
LEASE = "1h"
"""Work that is not given back would not end within the test."""
CALLERS = 8
EARLY, LATE = 0.05, 0.4


class Caller:
    """Has operations run, one after the other, until told to stop; no call may fail."""

    def __init__(self, channel, stop):
        self._script = script_pb2_grpc.ScriptServiceStub(channel)
        self._operations = operations_pb2_grpc.OperationsStub(channel)
        self._stop = stop
        self.parent = f"callers/{uuid4()}"
        self.ends = {}
        """The operations with what became of them."""
        self.cancelled = set()

    def live(self):
        while not self._stop.is_set():
            request_id = str(uuid4())
            seconds = LATE if len(self.ends) % 4 == 0 else EARLY
            request = script_pb2.RunScriptRequest(
                parent=self.parent,
                request_id=request_id,
                steps=[{"sleep": {"nanos": int(seconds * 1e9)}}],
            )
            name = self._script.RunScript(request, timeout=30).name
            if len(self.ends) % 8 == 4:
                self.cancelled.add(name)
                cancel = operations_pb2.CancelOperationRequest(name=name)
                self._operations.CancelOperation(cancel, timeout=30)
            self._see(self._end_of(name), request_id)

    def _end_of(self, name):
        while True:
            wait = operations_pb2.WaitOperationRequest(name=name, timeout={"seconds": 20})
            operation = self._operations.WaitOperation(wait, timeout=30)
            if operation.done:
                return operation

    def _see(self, operation, request_id):
        """Every server says the same of what has ended."""
        get = operations_pb2.GetOperationRequest(name=operation.name)
        for _ in range(3):
            assert self._operations.GetOperation(get, timeout=30) == operation
        self.ends[operation.name] = operation
        listing = operations_pb2.ListOperationsRequest(name=self.parent, page_size=1000)
        page = self._operations.ListOperations(listing, timeout=30)
        assert {it.name: it for it in page.operations} == self.ends
        if operation.name not in self.cancelled or operation.HasField("response"):
            response = script_pb2.RunScriptResponse()
            assert operation.response.Unpack(response)
            assert response.text == request_id


@pytest.fixture
def database(postgres_of):
    """Return the URL of an empty database, which is dropped when no process uses it any more."""
    postgres = postgres_of("18")
    url = postgres.new_database()
    yield url
    postgres.drop(url)


@pytest.fixture
def callers():
    """Start callers of three servers by one channel; return what stops and returns them."""
    with ExitStack() as stack:

        def start(servers):
            target = "ipv4:" + ",".join(server.address for server in servers)
            options = [("grpc.service_config", RETRIES), ("grpc.max_reconnect_backoff_ms", 1000)]
            channel = stack.enter_context(grpc.insecure_channel(target, options))
            pool = stack.enter_context(ThreadPoolExecutor(CALLERS))
            stop = threading.Event()
            stack.callback(stop.set)
            callers = [Caller(channel, stop) for _ in range(CALLERS)]
            lives = [pool.submit(caller.live) for caller in callers]

            def stopped():
                stop.set()
                for life in lives:
                    life.result()
                return callers

            return stopped

        yield start


def runs(folder):
    """Return the version, the name and the lease of every run."""
    lines = (folder / "runs").read_text("utf-8").splitlines()
    return [tuple(json.loads(line)) for line in lines]


def erased(server):
    """Have an operation of the new method run; return its name."""
    name = server.script.EraseScript(script_pb2.EraseScriptRequest(), timeout=30).name
    assert server.result(name).HasField("response")
    return name


def given_back(servers):
    """Return how many operations servers say that they have given back."""
    counts = (re.search(r"stopped: (\d+) operations? w\w+ given back", it.log) for it in servers)
    return sum(int(count[1]) for count in counts if count)


@pytest.mark.slow
@pytest.mark.parametrize("grace", ["20s", "0s"], ids=["with grace", "without grace"])
def test_callers_notice_nothing_when_servers_are_replaced_one_after_the_other(
    serve, folder, database, callers, state_of, *, grace
):
    (folder / "versions.py").write_text(VERSIONS, encoding="utf-8")
    common = ("--store", database, "--lease", LEASE, "--grace", grace)
    old = [serve("--service", "versions:Old", *common) for _ in range(3)]
    stopped = callers(old)
    only_new = set()

    for server in old:
        server.terminate()
        assert server.process.wait(30) == 0
        new = serve("--service", "versions:New", "--listen", server.address, *common)
        only_new |= {erased(new) for _ in range(5)}

    everybody = stopped()
    ends = {name: it for caller in everybody for name, it in caller.ends.items()}
    cancelled = {name for caller in everybody for name in caller.cancelled}
    assert len(ends) > CALLERS
    assert all(it.HasField("response") or name in cancelled for name, it in ends.items())
    done = runs(folder)
    assert {version for version, name, _ in done if name in only_new} == {"New"}
    assert {version for version, _, _ in done} == {"Old", "New"}
    times = Counter(name for _, name, _ in done)
    assert set(ends) - cancelled | only_new <= set(times) <= set(ends) | only_new
    assert len({(name, lease) for _, name, lease in done}) == len(done)  # each under its own
    assert times.total() - len(times) <= given_back(old)
    assert grace == "0s" or given_back(old) == 0
    assert {state_of(it).attempt for name, it in ends.items() if name not in cancelled} == {1}
