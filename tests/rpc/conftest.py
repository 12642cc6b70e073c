"""A server to test against, and a client that looks closely at every answer."""

import asyncio
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import descriptor_pool, empty_pb2
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from outlastapi.script.v1 import script_pb2, script_pb2_grpc
from outlastapi.v1 import operations_admin_pb2_grpc
from outlastapi.v1.operation_metadata_pb2 import OperationMetadata

import outlast
from outlast_script import ScriptService
from tests.postgresql import PostgresServer

PREFIX = "type.googleapis.com/"
NAME = re.compile(r"([A-Za-z0-9._~-]+/)*operations/[A-Za-z0-9._~-]+")
REASON = re.compile(r"[A-Z][A-Z0-9_]{1,61}[A-Z0-9]")
KEY = re.compile(r"[a-z][a-zA-Z0-9-_]{0,63}")
FIELD = re.compile(r"[a-z][a-z0-9_]*(\[\d+\])?(\.[a-z][a-z0-9_]*(\[\d+\])?)*")
"""The path of a field in a proto, with the index in one that is repeated."""
TYPES = {
    "outlastapi.script.v1.ScriptService/RunScript": (
        "outlastapi.script.v1.RunScriptResponse",
        "outlastapi.script.v1.RunScriptMetadata",
    ),
    "outlastapi.script.v1.ScriptService/EraseScript": (
        "google.protobuf.Empty",
        "outlastapi.v1.OperationMetadata",
    ),
}
"""The response and metadata types of the methods that are served here."""


def unpack(packed: Any) -> Any:
    """Return the message in an Any, of whatever type it is."""
    name = packed.type_url.removeprefix(PREFIX)
    message_class = GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(name))
    return message_class.FromString(packed.value)


def metadata_of(operation: operations_pb2.Operation) -> OperationMetadata:
    """Return what the framework says in an operation's metadata."""
    own = unpack(operation.metadata)
    return own if isinstance(own, OperationMetadata) else own.operation


def check_status(status: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    """Check an error by AIP-193, and return its ErrorInfo."""
    assert 1 <= status.code <= 16
    assert status.message
    assert "Traceback" not in status.message
    assert ".py" not in status.message
    types = [detail.type_url for detail in status.details]
    assert all(each.startswith(PREFIX + "google.rpc.") for each in types)
    assert len(set(types)) == len(types)
    (info,) = (
        unpack(each) for each in status.details if each.type_url == PREFIX + "google.rpc.ErrorInfo"
    )
    assert REASON.fullmatch(info.reason)
    assert info.domain
    assert all(KEY.fullmatch(key) for key in info.metadata)
    return info


def reason_of(operation: operations_pb2.Operation) -> str:
    """Return the reason of the error that an operation ended with."""
    assert operation.HasField("error")
    return check_status(operation.error).reason


def check_operation(operation: operations_pb2.Operation) -> operations_pb2.Operation:
    """Check what holds for every snapshot of an operation, and return it."""
    assert NAME.fullmatch(operation.name)
    metadata = metadata_of(operation)
    response_type, metadata_type = TYPES[metadata.verb]
    assert operation.metadata.type_url == PREFIX + metadata_type
    assert (operation.WhichOneof("result") is not None) == operation.done
    assert metadata.HasField("end_time") == operation.done
    moments = [metadata.create_time, metadata.start_time, metadata.end_time]
    present = [each.ToNanoseconds() for each in moments if each.seconds]
    assert present == sorted(present)
    state = OperationMetadata.State.Name(metadata.state)
    match operation.WhichOneof("result"):
        case "response":
            assert operation.response.type_url == PREFIX + response_type
            assert state == "SUCCEEDED"
        case "error":
            check_status(operation.error)
            assert state == "FAILED" or (state == "CANCELLED" and operation.error.code == 1)
        case _:
            assert state in {"PENDING", "RUNNING"}
    return operation


@dataclass(frozen=True)
class Refusal:
    """How an RPC failed."""

    code: grpc.StatusCode
    message: str
    status: status_pb2.Status
    info: error_details_pb2.ErrorInfo

    def detail(self, kind: type[Message]) -> Any:
        """Return the detail of a type, None if there is none."""
        url = PREFIX + kind.DESCRIPTOR.full_name
        return next((unpack(each) for each in self.status.details if each.type_url == url), None)

    @property
    def field(self) -> str:
        """The field that is wrong."""
        (violation,) = self.detail(error_details_pb2.BadRequest).field_violations
        return str(violation.field)


def size_on_the_wire(error: grpc.aio.AioRpcError) -> int:
    """Return how large trailers are, at most, as clients count them (RFC 9113, 6.5.2)."""
    fields = {"grpc-status": "16", "grpc-message": quote(error.details() or "", safe="")}
    for key, value in error.trailing_metadata() or ():
        fields[key] = b64encode(value).decode() if isinstance(value, bytes) else value
    return sum(len(key) + len(value) + 32 for key, value in fields.items())


async def refusal(call: Awaitable[Any], *, field: re.Pattern[str] = FIELD) -> Refusal:
    """Return how a call fails, after a look at its details, and at what the field looks like."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    trailers = dict(error.trailing_metadata() or ())
    packed = trailers.get("grpc-status-details-bin")
    assert packed is not None, f"no details: {error}"
    assert size_on_the_wire(error) <= 8 * 1024
    status = status_pb2.Status.FromString(packed)
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    found = Refusal(error.code(), status.message, status, check_status(status))
    if found.code is grpc.StatusCode.INVALID_ARGUMENT:
        assert field.fullmatch(found.field), found.field
    return found


async def until(condition: Callable[[], bool]) -> None:
    """Return when a condition holds that no event tells of."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.002)


class Client:
    """Plain stubs, and calls that check the operations they return.

    Of a server in this process it knows the inside as well: `server` and `engine`.
    """

    def __init__(self, channel: grpc.aio.Channel, server: Any = None) -> None:
        self.channel = channel
        self.server = server
        self.engine = server and server.operations.engine
        self.script = script_pb2_grpc.ScriptServiceStub(channel)
        self.operations = operations_pb2_grpc.OperationsStub(channel)
        self.admin = operations_admin_pb2_grpc.OperationsAdminServiceStub(channel)

    check = staticmethod(check_operation)
    metadata = staticmethod(metadata_of)
    reason = staticmethod(reason_of)
    refused = staticmethod(refusal)
    size_on_the_wire = staticmethod(size_on_the_wire)
    unpack = staticmethod(unpack)
    until = staticmethod(until)

    async def run(self, *steps: dict[str, Any], **fields: Any) -> operations_pb2.Operation:
        request = script_pb2.RunScriptRequest(steps=steps, **fields)
        return check_operation(await self.script.RunScript(request, timeout=20))

    async def erase(self, *steps: dict[str, Any], **fields: Any) -> operations_pb2.Operation:
        request = script_pb2.EraseScriptRequest(steps=steps, **fields)
        return check_operation(await self.script.EraseScript(request, timeout=20))

    async def get(self, name: str) -> operations_pb2.Operation:
        request = operations_pb2.GetOperationRequest(name=name)
        return check_operation(await self.operations.GetOperation(request, timeout=20))

    async def wait(
        self, name: str, seconds: float | None = None, **options: Any
    ) -> operations_pb2.Operation:
        timeout = None if seconds is None else timedelta(seconds=seconds)
        request = operations_pb2.WaitOperationRequest(name=name, timeout=timeout)
        call = self.operations.WaitOperation(request, **options)
        return check_operation(await asyncio.wait_for(call, 50))

    async def done(self, operation: operations_pb2.Operation) -> operations_pb2.Operation:
        """Return an operation when it is done."""
        waited = await self.wait(operation.name)
        assert waited.done
        assert waited.name == operation.name
        return waited

    async def finished(self, *steps: dict[str, Any], **fields: Any) -> operations_pb2.Operation:
        """Run a script to its end."""
        return await self.done(await self.run(*steps, **fields))

    async def check_alive(self) -> None:
        """Check that the server starts, runs and lists operations."""
        done = await self.done(await self.erase())
        assert done.HasField("response")
        assert done.name in await self.names()

    async def running(self, operation: operations_pb2.Operation) -> operations_pb2.Operation:
        """Return an operation when its handler runs."""
        task = f"outlast:{operation.name}"
        await until(lambda: any(each.get_name() == task for each in asyncio.all_tasks()))
        return await self.get(operation.name)

    async def cancel(self, name: str) -> empty_pb2.Empty:
        request = operations_pb2.CancelOperationRequest(name=name)
        return await self.operations.CancelOperation(request, timeout=20)

    async def delete(self, name: str) -> empty_pb2.Empty:
        request = operations_pb2.DeleteOperationRequest(name=name)
        return await self.operations.DeleteOperation(request, timeout=20)

    async def page(self, name: str = "", **fields: Any) -> operations_pb2.ListOperationsResponse:
        request = operations_pb2.ListOperationsRequest(name=name, **fields)
        page = await self.operations.ListOperations(request, timeout=20)
        for operation in page.operations:
            check_operation(operation)
        return page

    async def names(self, name: str = "", **fields: Any) -> list[str]:
        """Return the names in all pages of a listing."""
        found: list[str] = []
        while True:
            page = await self.page(name, **fields)
            found += [operation.name for operation in page.operations]
            if not page.next_page_token:
                return found
            fields["page_token"] = page.next_page_token


Serving = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, postgres_of: Callable[[str], PostgresServer]
) -> Iterator[str]:
    """Yield what a server is told to keep operations in."""
    match request.param:
        case "memory":
            yield "memory:"
        case "sqlite":
            yield str(tmp_path / "operations.db")
        case _:
            server = postgres_of("18")
            url = server.new_database()
            yield url
            server.drop(url)


@asynccontextmanager
async def connect(address: str, server: outlast.Server | None = None) -> AsyncIterator[Client]:
    """Yield a client of the server at an address, on a connection of its own."""
    # As every client that was not told otherwise; each channel has its own connection.
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield Client(channel, server)


@pytest.fixture
def connected() -> Callable[..., AbstractAsyncContextManager[Client]]:
    """Return what opens a client of the server at an address."""
    return connect


@pytest.fixture
def serving(store: str) -> Serving:
    """Return what opens a server on the store: of the script service, if of no other."""

    @asynccontextmanager
    async def serve(
        *services: object,
        clock: Any = None,
        execute: bool = True,
        **settings: Any,
    ) -> AsyncIterator[Client]:
        settings.setdefault("cancel_grace", timedelta(seconds=1))
        config = outlast.ServerConfig(
            store=settings.pop("store", store),
            listen="127.0.0.1:0",
            execute=execute,
            engine=outlast.EngineSettings(**settings),
        )
        async with outlast.Server(
            services=services or [ScriptService()], config=config, clock=clock
        ) as server:
            try:
                async with connect(server.address, server) as client:
                    yield client
            finally:
                server.hurry()

    return serve


@pytest.fixture
def scripted() -> Callable[..., object]:
    """Return what makes a script service whose RunScript does what a test says."""

    def make(
        work: Callable[[Any, Any], Awaitable[Any]] | None = None, **options: Any
    ) -> script_pb2_grpc.ScriptServiceServicer:
        class Scripted(script_pb2_grpc.ScriptServiceServicer):
            @outlast.long_running(**options)
            async def RunScript(self, request: Any, operation: Any) -> Any:
                answer = await work(request, operation) if work else None
                return script_pb2.RunScriptResponse() if answer is None else answer

            @outlast.long_running(**options)
            async def EraseScript(self, *_: Any) -> Any:
                return empty_pb2.Empty()

        return Scripted()

    return make
