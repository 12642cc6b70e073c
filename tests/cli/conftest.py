"""Small servers to point the command at: complete ones, and ones that lack something."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import grpc
import grpc_tools
import pytest
from click.testing import CliRunner, Result
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, empty_pb2, message_factory
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection
from grpc_tools import protoc
from outlastapi.v1.operation_metadata_pb2 import OperationMetadata

from outlast.cli.main import main

HERE = Path(__file__).parent
PROTOS = HERE.parents[1] / "protos"
ECHO_SERVICE = "foreign.v1.EchoService"
OPERATIONS = "google.longrunning.Operations"


class ForeignTypes:
    """The types of foreign.proto, in a pool of their own: the command cannot know them."""

    def __init__(self, folder: Path) -> None:
        files = folder / "foreign.binpb"
        builtin = resources.files(grpc_tools) / "_proto"
        includes = (HERE, PROTOS, PROTOS / "third_party", builtin)
        arguments = [
            "protoc",
            *(f"-I{path}" for path in includes),
            "--include_imports",
            f"--descriptor_set_out={files}",
            "foreign.proto",
        ]
        assert protoc.main(arguments) == 0
        self.files = descriptor_pb2.FileDescriptorSet.FromString(files.read_bytes())
        self.pool = descriptor_pool.DescriptorPool()
        for file in self.files.file:
            self.pool.Add(file)

    def message(self, name: str, **fields: Any) -> Any:
        descriptor = self.pool.FindMessageTypeByName(f"foreign.v1.{name}")
        return message_factory.GetMessageClass(descriptor)(**fields)

    def packed(self, name: str, **fields: Any) -> any_pb2.Any:
        packed = any_pb2.Any()
        packed.Pack(self.message(name, **fields))
        return packed

    def metadata(self, **fields: Any) -> any_pb2.Any:
        """Return EchoMetadata with the state of an operation inside."""
        message = self.message("EchoMetadata", note="deep inside")
        message.inside.operation.MergeFromString(OperationMetadata(**fields).SerializeToString())
        packed = any_pb2.Any()
        packed.Pack(message)
        return packed


@dataclass
class ForeignServer(operations_pb2_grpc.OperationsServicer):
    """A server of google.longrunning that keeps its operations in a dict.

    Its answers are those of the protocol: Wait returns when the operation is done or
    the time is over, unknown names are NOT_FOUND, a page has a token if there are more.
    """

    types: ForeignTypes
    with_wait: bool = True
    page_size: int = 2
    address: str = ""
    operations: dict[str, operations_pb2.Operation] = field(default_factory=dict)
    called: list[str] = field(default_factory=list)
    headers: dict[str, Any] = field(default_factory=dict)
    filters: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    on_wait: Callable[[operations_pb2.Operation], None] | None = None
    held: Any = None
    empty_pages: Iterator[str] = field(default_factory=lambda: iter(()))
    """The tokens of empty pages that come before the others."""
    refuse: tuple[str, Any] = ("", ())
    """A name whose list is refused, and the status and its details to do that with."""
    failure: tuple[Any, ...] = ()
    """A google.rpc.Status and its details to end every call with, if there is one."""

    def add(self, name: str, **fields: Any) -> operations_pb2.Operation:
        operation = operations_pb2.Operation(name=name, **fields)
        self.put(operation)
        return operation

    def put(self, operation: operations_pb2.Operation) -> None:
        with self.changed:
            self.operations[operation.name] = operation
            self.changed.notify_all()

    def succeed(self, name: str, text: str) -> None:
        self.put(
            operations_pb2.Operation(
                name=name, done=True, response=self.types.packed("EchoReply", text=text)
            )
        )

    def await_call(self, method: str, times: int = 1) -> None:
        """Return when a method has been called so often."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.called.count(method) >= times, timeout=30)

    def GetOperation(self, request, context):
        self._called("GetOperation", context)
        return self._find(request.name, context)

    def ListOperations(self, request, context):
        self._called("ListOperations", context)
        self.filters.append(request.filter)
        self.check_parent(request.name, context)
        token = next(self.empty_pages, "")
        if token:
            return operations_pb2.ListOperationsResponse(next_page_token=token)
        parent = "" if request.name == "operations" else f"{request.name}/"
        found = [
            operation
            for name, operation in sorted(self.operations.items())
            if name.startswith(f"{parent}operations/")
        ]
        start = int(request.page_token or 0)
        end = start + min(request.page_size or self.page_size, self.page_size)
        return operations_pb2.ListOperationsResponse(
            operations=found[start:end], next_page_token=str(end) if end < len(found) else ""
        )

    def CancelOperation(self, request, context):
        self._called("CancelOperation", context)
        operation = self._find(request.name, context)
        if not operation.done:
            error = status_pb2.Status(code=code_pb2.CANCELLED, message="cancelled by a test")
            self.put(operations_pb2.Operation(name=request.name, done=True, error=error))
        return empty_pb2.Empty()

    def DeleteOperation(self, request, context):
        self._called("DeleteOperation", context)
        self._find(request.name, context)
        del self.operations[request.name]
        return empty_pb2.Empty()

    def WaitOperation(self, request, context):
        self._called("WaitOperation", context)
        operation = self._find(request.name, context)
        if not self.with_wait:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not implemented!")
        if self.on_wait is not None:
            self.on_wait(operation)
        with self.changed:
            self.changed.wait_for(
                lambda: request.name not in self.operations or self.operations[request.name].done,
                timeout=request.timeout.ToTimedelta().total_seconds(),
            )
        return self._find(request.name, context)

    def check_parent(self, name: str, context: grpc.ServicerContext) -> None:
        refused, failure = self.refuse
        if failure and name == refused:
            abort_with_details(context, *failure)

    def _called(self, method: str, context: grpc.ServicerContext) -> None:
        with self.changed:
            self.called.append(method)
            self.headers = dict(context.invocation_metadata())
            self.changed.notify_all()
        if self.failure:
            abort_with_details(context, *self.failure)

    def _find(self, name: str, context: grpc.ServicerContext) -> operations_pb2.Operation:
        operation = self.operations.get(name)
        if operation is None:
            abort_with_details(
                context,
                status_pb2.Status(code=code_pb2.NOT_FOUND, message=f"operation {name!r} not found"),
                error_details_pb2.ErrorInfo(reason="OPERATION_NOT_FOUND", domain="foreign"),
            )
        return operation


@dataclass
class EchoService:
    """The service of foreign.proto; there are no stubs of it to build on."""

    server: ForeignServer

    def Echo(self, request, _):
        return self._reply(text=request.text, count=request.count)

    def Expand(self, request, _):
        for number in range(request.count):
            yield self._reply(text=request.text, count=number)

    def Collect(self, requests, _):
        texts = [request.text for request in requests]
        return self._reply(text="+".join(texts), count=len(texts))

    def Chat(self, requests, _):
        for request in requests:
            yield self._reply(text=request.text)

    def Refuse(self, _, context):
        violation = {"field": "text", "description": "must not be \x1b[2Jrude"}
        abort_with_details(
            context,
            status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message="no such text"),
            error_details_pb2.ErrorInfo(reason="BAD_TEXT", domain="foreign"),
            error_details_pb2.BadRequest(field_violations=[violation]),
        )

    def Hold(self, _, __):
        return self.server.held

    def Silent(self, _, __):
        """End as only a broken server does: well, but without a response."""
        return iter(())

    def Start(self, request, context):
        self.server.headers = dict(context.invocation_metadata())
        self.server.add("operations/echo")
        if request.text == "at once":
            self.server.succeed("operations/echo", request.text)
        return self.server.operations["operations/echo"]

    def handler(self) -> grpc.GenericRpcHandler:
        kinds = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }
        methods = self.server.types.pool.FindServiceByName(ECHO_SERVICE).methods
        handlers = {
            method.name: kinds[
                method.client_streaming, method.server_streaming or method.name == "Silent"
            ](
                getattr(self, method.name),
                message_factory.GetMessageClass(method.input_type).FromString,
                lambda response: response.SerializeToString(),
            )
            for method in methods
        }
        return grpc.method_handlers_generic_handler(ECHO_SERVICE, handlers)

    def _reply(self, **fields):
        return self.server.types.message("EchoReply", **fields)


def abort_with_details(
    context: grpc.ServicerContext, status: status_pb2.Status, *details: Any
) -> None:
    """End an RPC with a google.rpc.Status, as grpcio-status would."""
    for detail in details:
        status.details.add().Pack(detail)
    context.set_trailing_metadata([("grpc-status-details-bin", status.SerializeToString())])
    code = next(each for each in grpc.StatusCode if each.value[0] == status.code)
    context.abort(code, status.message)


@pytest.fixture(scope="session")
def types(tmp_path_factory: pytest.TempPathFactory) -> ForeignTypes:
    return ForeignTypes(tmp_path_factory.mktemp("protos"))


Serve = Callable[..., AbstractContextManager[ForeignServer]]


@pytest.fixture
def serve_foreign(types: ForeignTypes) -> Serve:
    @contextmanager
    def serve(
        *,
        reflection_names: Sequence[str] | None = (ECHO_SERVICE, OPERATIONS),
        with_operations: bool = True,
        address: str = "127.0.0.1:0",
        credentials: grpc.ServerCredentials | None = None,
        **settings: Any,
    ) -> Iterator[ForeignServer]:
        foreign = ForeignServer(types, **settings)
        server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        if with_operations:
            operations_pb2_grpc.add_OperationsServicer_to_server(foreign, server)
        server.add_generic_rpc_handlers((EchoService(foreign).handler(),))
        if reflection_names is not None:
            reflection.enable_server_reflection(reflection_names, server, pool=types.pool)
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
        foreign.address = f"127.0.0.1:{port}"
        server.start()
        try:
            yield foreign
        finally:
            server.stop(grace=None).wait()

    return serve


@pytest.fixture
def foreign(serve_foreign: Serve) -> Iterator[ForeignServer]:
    """A complete server."""
    with serve_foreign() as server:
        yield server


@pytest.fixture
def bare(serve_foreign: Serve) -> Iterator[ForeignServer]:
    """A server without reflection and without WaitOperation."""
    with serve_foreign(reflection_names=None, with_wait=False) as server:
        yield server


Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """Run the command inside the process, against a server if one is given."""

    def run_command(*arguments: str, server: ForeignServer | None = None, **options: Any) -> Result:
        environment = {"OUTLAST_ADDRESS": server.address} if server else {}
        runner = CliRunner(env=environment)
        return runner.invoke(main, arguments, catch_exceptions=False, **options)

    return run_command
