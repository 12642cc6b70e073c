"""Callers: each does with its operations what callers do, and remembers every answer."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from random import Random
from typing import Any
from uuid import UUID

import grpc
from google.longrunning import operations_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2
from outlastapi.script.v1 import script_pb2
from outlastapi.v1.operation_metadata_pb2 import OperationMetadata

from tests.chaos.history import Call, Snapshot
from tests.chaos.servers import Server

_CALL_SECONDS = 2.0
"""The deadline of a call, less than a pause may take."""
_GIVE_UP_SECONDS = 60.0
"""How long a caller tries the same again; all servers serve long before."""


def snapshot(operation: operations_pb2.Operation) -> Snapshot:
    """Return what an answer says of an operation."""
    metadata, response = script_pb2.RunScriptMetadata(), script_pb2.RunScriptResponse()
    operation.metadata.Unpack(metadata)
    state = metadata.operation
    if operation.HasField("response"):
        operation.response.Unpack(response)
    return Snapshot(
        operation.name,
        OperationMetadata.State.Name(state.state),
        state.attempt,
        state.max_attempts,
        state.update_time.ToNanoseconds(),
        state.dead_letter,
        response.text or operation.error.message,
        operation.SerializeToString(deterministic=True),
    )


class Recorder:
    """Makes calls, and writes down what came of them."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.faults: list[str] = []

    async def start(self, server: Server, request: script_pb2.RunScriptRequest) -> Call:
        """Start an operation."""
        return await self._call(
            "start", server, server.script.RunScript, request, request_id=request.request_id
        )

    async def get(self, server: Server, name: str) -> Call:
        """Look at an operation."""
        request = operations_pb2.GetOperationRequest(name=name)
        return await self._call("get", server, server.operations.GetOperation, request, name=name)

    async def wait(self, server: Server, name: str, seconds: float) -> Call:
        """Wait for an operation."""
        timeout = Duration()
        timeout.FromNanoseconds(int(seconds * 1e9))
        request = operations_pb2.WaitOperationRequest(name=name, timeout=timeout)
        method = server.operations.WaitOperation
        return await self._call("wait", server, method, request, name=name, extra=seconds)

    async def cancel(self, server: Server, name: str) -> Call:
        """Ask an operation to stop."""
        request = operations_pb2.CancelOperationRequest(name=name)
        method = server.operations.CancelOperation
        return await self._call("cancel", server, method, request, name=name)

    async def delete(self, server: Server, name: str) -> Call:
        """Delete an operation."""
        request = operations_pb2.DeleteOperationRequest(name=name)
        method = server.operations.DeleteOperation
        return await self._call("delete", server, method, request, name=name)

    async def list(self, choose: Callable[[], Server], parent: str, page_size: int) -> Call:
        """List all operations of a parent, each page from some server."""
        began, token, found = time.monotonic(), "", list[Snapshot]()
        while True:
            server = choose()
            request = operations_pb2.ListOperationsRequest(
                name=parent, page_size=page_size, page_token=token
            )
            answer, code = await _answer(server.operations.ListOperations, request, _CALL_SECONDS)
            if answer is not None:
                found += map(snapshot, answer.operations)
                token = answer.next_page_token
            if answer is None or not token:
                ended = time.monotonic()
                call = Call("list", server.name, began, ended, code, name=parent, snapshots=found)
                self.calls.append(call)
                return call

    async def _call(
        self,
        kind: str,
        server: Server,
        method: Callable[..., Awaitable[Any]],
        request: Any,
        *,
        request_id: str = "",
        name: str = "",
        extra: float = 0.0,
    ) -> Call:
        began = time.monotonic()
        answer, code = await _answer(method, request, _CALL_SECONDS + extra)
        told = [snapshot(answer)] if isinstance(answer, operations_pb2.Operation) else []
        call = Call(kind, server.name, began, time.monotonic(), code, request_id, name, told)
        self.calls.append(call)
        return call


async def _answer(
    method: Callable[..., Awaitable[Any]], request: Any, seconds: float
) -> tuple[Any, str]:
    """Return an answer, if there is one, and the name of the status."""
    try:
        return await method(request, timeout=seconds), "OK"
    except grpc.aio.AioRpcError as error:
        return None, error.code().name
    except (grpc.aio.UsageError, asyncio.CancelledError) as error:
        # The server's next process has come, and the channel to this one is closed.
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise
        return None, "CANCELLED"


class Client:
    """One caller, with operations under a parent of its own."""

    def __init__(
        self, number: int, servers: Sequence[Server], recorder: Recorder, random: Random
    ) -> None:
        self.parent = f"clients/{number}"
        self._servers = servers
        self._recorder = recorder
        self._random = random

    async def live(self, seconds: float) -> None:
        """Have operations run, one after the other, for so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            name, tries = await self._start()
            if not name:
                return
            # What is deleted gives its request_id back: a start that comes late takes it.
            await self._follow(name, end, may_delete=tries == 1)

    def _choose(self) -> Server:
        return self._random.choice(self._servers)

    async def _start(self) -> tuple[str, int]:
        """Start an operation, with one request_id however often that takes, unless it is refused.

        Returns its name, nothing if no server takes it, and the number of tries.
        """
        request = self._request()
        tries, give_up = 0, time.monotonic() + _GIVE_UP_SECONDS
        while time.monotonic() < give_up:
            at_once = self._random.choices([1, 2], weights=[9, 1])[0]
            tries += at_once
            calls = await asyncio.gather(
                *(self._recorder.start(self._choose(), request) for _ in range(at_once))
            )
            for call in calls:
                if call.code == "OK":
                    return call.snapshots[0].name, tries
            if any(call.code == "ABORTED" for call in calls):
                request, tries = self._request(), 0  # somebody else has the resource
            await asyncio.sleep(self._random.uniform(0.02, 0.2))
        self._recorder.faults.append(f"no server took the request {request.request_id}")
        return "", tries

    def _request(self) -> script_pb2.RunScriptRequest:
        exclusive = self._random.random() < 0.15
        return script_pb2.RunScriptRequest(
            parent=self.parent,
            steps=[script_pb2.Step(**step) for step in self._steps()],
            request_id=str(UUID(int=self._random.getrandbits(128), version=4)),
            exclusive_key=f"key {self._random.randrange(3)}" if exclusive else "",
        )

    def _steps(self) -> Iterator[dict[str, Any]]:
        random = self._random
        if random.random() < 0.15:
            yield {"ignore_cancellation": True}
        if random.random() < 0.2:
            code = code_pb2.UNAVAILABLE
            yield {"fail_attempts": {"attempts": random.randint(1, 2), "code": code}}
        count = random.randint(1, 5)
        for number in range(count):
            duration = Duration()
            duration.FromMilliseconds(int(random.expovariate(1 / 150)))
            yield {"durable": {"key": f"{number}", "duration": duration}}
            if random.random() < 0.4:
                yield {"progress": {"completed": number + 1, "total": count}}
            if random.random() < 0.3:
                yield {random.choice(["sleep", "block"]): duration}
        if random.random() < 0.1:
            yield {"fail": {"code": code_pb2.FAILED_PRECONDITION, "message": "told to fail"}}

    async def _follow(self, name: str, end: float, *, may_delete: bool) -> None:
        """Call for an operation until it is done or gone, or the time is over."""
        random, recorder = self._random, self._recorder
        doomed = may_delete and random.random() < 0.15
        while time.monotonic() < end:
            kinds = ["wait", "get", "cancel", "list", "delete"]
            weights = [50, 25, 4, 10, 15 if doomed else 0]
            match random.choices(kinds, weights)[0]:
                case "wait":
                    call = await recorder.wait(self._choose(), name, random.uniform(0.1, 8.0))
                case "get":
                    call = await recorder.get(self._choose(), name)
                case "cancel":
                    call = await recorder.cancel(self._choose(), name)
                case "list":
                    call = await recorder.list(self._choose, self.parent, random.randint(1, 40))
                case _:
                    call = await recorder.delete(self._choose(), name)
            if call.kind == "delete" and call.code in {"OK", "NOT_FOUND"}:
                await recorder.get(self._choose(), name)
                return
            if call.code in {"OK", "NOT_FOUND"}:
                about = [it for it in call.snapshots if it.name == name]
                if any(it.done for it in about) or call.code == "NOT_FOUND":
                    await recorder.get(self._choose(), name)
                    if not doomed or call.code == "NOT_FOUND":
                        return
            await asyncio.sleep(random.uniform(0.0, 0.1))
