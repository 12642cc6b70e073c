"""More than a server can take, for as long as it lasts: it refuses, and does what it accepted."""

import asyncio
import re
from collections import Counter
from pathlib import Path

import grpc
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from outlastapi.script.v1 import script_pb2, script_pb2_grpc

STARTS = 100_000
WAITERS = 20_000
CALLERS = 256
MAX_WAITERS = 1000
LIMITS = ("max_pending=300", f"max_waiters={MAX_WAITERS}", "max_calls=200")
MAX_GROWTH_KIB = 64 * 1024
"""What the memory may grow from the first tenth of the flood to its end."""


def memory_kib(pid: int) -> int:
    """Return how much memory a process has in use."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1])


class Flood:
    """Calls of a kind, so many at a time, counted by what came of them."""

    def __init__(self, pid: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self.accepted: list[str] = []
        self.memory: list[int] = []
        self.refused = asyncio.Event()
        """Set when as many waiters as are too many were refused."""
        self._pid = pid

    async def start(self, script: script_pb2_grpc.ScriptServiceStub) -> None:
        left = iter(range(STARTS))

        async def caller() -> None:
            for number in left:
                if number % (STARTS // 10) == 0:
                    self.memory.append(memory_kib(self._pid))
                operation = await self._counted(script.RunScript(script_pb2.RunScriptRequest()))
                if operation is not None:
                    self.accepted.append(operation.name)

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        self.memory.append(memory_kib(self._pid))

    async def wait(self, operations: operations_pb2_grpc.OperationsStub, name: str) -> None:
        request = operations_pb2.WaitOperationRequest(name=name)
        await asyncio.gather(
            *(self._counted(operations.WaitOperation(request)) for _ in range(WAITERS))
        )

    async def _counted(self, call):
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            self.outcomes[error.code().name] += 1
            if self.outcomes["RESOURCE_EXHAUSTED"] == WAITERS - MAX_WAITERS:
                self.refused.set()
            return None
        self.outcomes["OK"] += 1
        return answer


@pytest.mark.timeout(500)  # it is over in one minute, on a machine that has time
async def test_a_flood_of_starts_is_refused_and_what_was_accepted_is_done(serve):
    server = serve("--script", *(part for limit in LIMITS for part in ("--set", limit)))
    flood = Flood(server.process.pid)
    async with grpc.aio.insecure_channel(server.address) as channel:
        await flood.start(script_pb2_grpc.ScriptServiceStub(channel))

    assert flood.outcomes.total() == STARTS
    assert set(flood.outcomes) == {"OK", "RESOURCE_EXHAUSTED"}
    assert flood.memory[-1] - flood.memory[1] < MAX_GROWTH_KIB, flood.memory
    assert len(set(flood.accepted)) == flood.outcomes["OK"]
    for name in flood.accepted[-300:]:  # whatever was accepted before has begun before
        assert server.result(name).HasField("response")
    found = count_done(server)
    assert found == len(flood.accepted)
    assert server.process.poll() is None


@pytest.mark.timeout(200)
async def test_a_flood_of_waiters_is_refused_and_the_others_are_answered(serve):
    server = serve("--script", *(part for limit in LIMITS for part in ("--set", limit)))
    name = server.run_script({"sleep": {"seconds": 3600}})
    flood = Flood(server.process.pid)
    async with grpc.aio.insecure_channel(server.address) as channel:
        operations = operations_pb2_grpc.OperationsStub(channel)
        waiting = asyncio.create_task(flood.wait(operations, name))
        await flood.refused.wait()
        await operations.CancelOperation(operations_pb2.CancelOperationRequest(name=name))
        await waiting

    assert flood.outcomes == {"OK": MAX_WAITERS, "RESOURCE_EXHAUSTED": WAITERS - MAX_WAITERS}
    assert server.result(server.run_script()).HasField("response")


def count_done(server) -> int:
    """Return how many operations a server has, all of which are to be done."""
    request = operations_pb2.ListOperationsRequest(page_size=1000)
    count = 0
    while True:
        page = server.operations.ListOperations(request, timeout=30)
        assert all(operation.HasField("response") for operation in page.operations)
        count += len(page.operations)
        if not page.next_page_token:
            return count
        request.page_token = page.next_page_token
