"""A long-running method between its proto and the engine."""

import hashlib
import inspect
import logging
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import grpc
from google.api import field_info_pb2
from google.longrunning import operations_pb2
from google.protobuf import descriptor_pool, empty_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from outlast.domain.errors import (
    ConfigurationError,
    InvalidArgumentError,
    LeaseLostError,
    OutlastError,
)
from outlast.domain.names import check_parent
from outlast.domain.operation import Operation, State
from outlast.domain.status import Code, Payload, Status
from outlast.engine.context import ExecutionContext
from outlast.engine.engine import Engine
from outlast.engine.manager import StartRequest
from outlast.engine.methods import Method
from outlast.engine.outcome import AttemptFailedError
from outlast.rpc.calls import guarded, seconds_left
from outlast.rpc.codec import Codec
from outlast.rpc.context import OperationContext
from outlast.rpc.errors import (
    TYPE_PREFIX,
    ServiceError,
    attempt_failure,
    pack,
    text_of,
)
from outlast.rpc.long_running import Options, Start, bind, decorated, options_of, takes
from outlast.rpc.services import Service

_log = logging.getLogger(__name__)

MAX_REQUEST_ID_LENGTH = 128

_OPERATION = operations_pb2.Operation.DESCRIPTOR.full_name
_EMPTY = empty_pb2.Empty.DESCRIPTOR.full_name  # imported so that reflection can resolve it


def bind_service(service: Service, engine: Engine, codec: Codec) -> None:
    """Register every decorated method of a service with the engine.

    Raises ConfigurationError for a method whose proto does not say what it returns, for
    one that is no RPC, and for one that its proto says is long-running and that is not
    decorated.
    """
    for name in decorated(service.servicer):
        if name not in service.descriptor.methods_by_name:
            raise ConfigurationError(
                f"{service.descriptor.file.name}: {service.name} has no RPC {name}, which "
                f"{type(service.servicer).__name__} decorates with long_running"
            )
    starts: dict[str, Start] = {}
    for method in service.descriptor.methods:
        options = options_of(service.servicer, method.name)
        if options is not None:
            binding = Binding(service.servicer, options, method, engine, codec)
            engine.register(binding.method)
            starts[method.name] = guarded(binding.start)
        elif _extension(method, operations_pb2.operation_info).response_type:
            _check_undecorated(service, method)
    bind(service.servicer, starts)


def _check_undecorated(service: Service, method: MethodDescriptor) -> None:
    """Warn of a long-running method that is not written; ConfigurationError if it is."""
    where = f"{type(service.servicer).__name__}.{method.name}"
    if method.name in service.written:
        raise ConfigurationError(
            f"{service.descriptor.file.name}: {method.full_name} has operation_info, and "
            f"{where} is not decorated: write @outlast.long_running() above it"
        )
    _log.warning("%s is not written: it answers UNIMPLEMENTED", where)


@dataclass(frozen=True, slots=True)
class _Conventions:
    """Which fields with a meaning a request has."""

    parent: bool
    name: bool
    request_id: bool
    uuid4: bool
    validate_only: bool

    @classmethod
    def of(cls, descriptor: Descriptor) -> "_Conventions":
        def has(name: str, kind: int) -> bool:
            field = descriptor.fields_by_name.get(name)
            return field is not None and field.type == kind and not field.is_repeated

        request_id = descriptor.fields_by_name.get("request_id")
        return cls(
            parent=has("parent", FieldDescriptor.TYPE_STRING),
            name=has("name", FieldDescriptor.TYPE_STRING),
            request_id=has("request_id", FieldDescriptor.TYPE_STRING),
            uuid4=request_id is not None
            and _extension(request_id, field_info_pb2.field_info).format
            == field_info_pb2.FieldInfo.UUID4,
            validate_only=has("validate_only", FieldDescriptor.TYPE_BOOL),
        )


class Binding:
    """Starts operations for requests, and runs the handler for operations."""

    def __init__(
        self,
        servicer: object,
        options: Options,
        descriptor: MethodDescriptor,
        engine: Engine,
        codec: Codec,
    ) -> None:
        self._servicer = servicer
        self._options = options
        self._engine = engine
        self._codec = codec
        self._request_class = GetMessageClass(descriptor.input_type)
        self._response_class, self._metadata_class = _result_types(descriptor)
        self._conventions = _Conventions.of(descriptor.input_type)
        validate = options.validate
        self._validates_with_servicer = validate is not None and not takes(validate, 1)
        self.method = Method(
            name=f"{descriptor.containing_service.full_name}/{descriptor.name}",
            run=self._run,
            metadata_type=TYPE_PREFIX + self._metadata_class.DESCRIPTOR.full_name,
            retry=options.retry,
            timeout=options.timeout,
            retention=options.retention,
            concurrency=options.concurrency,
            max_running=options.max_running,
            max_pending=options.max_pending,
        )

    async def start(self, request: Any, context: Any) -> operations_pb2.Operation:
        """Check a request, store it, and return its operation."""
        conventions = self._conventions
        parent = check_parent(request.parent) if conventions.parent else ""
        request_id = ""
        if conventions.request_id:
            # Written into the request too: requests that only differ in its case are equal.
            request.request_id = request_id = self._request_id(request)
        try:
            await self._validate(request)
        except (OutlastError, ServiceError):
            # A retry must not fail because its first try has changed the world (AIP-155).
            again = self._start_request(request, parent, request_id)
            earlier = await self._engine.manager.started_before(again, seconds_left(context))
            if earlier is None:
                raise
            return self._codec.to_proto(earlier)
        if conventions.validate_only and request.validate_only:
            return self._validated(parent, request)
        start = self._start_request(
            request,
            parent,
            request_id,
            target=self._target(request),
            exclusive_key=self._option("exclusive", request),
        )
        operation = await self._engine.manager.start(start, seconds_left(context))
        return self._codec.to_proto(operation)

    def _start_request(
        self, request: Any, parent: str, request_id: str, **resource: str
    ) -> StartRequest:
        payload = pack(request)
        return StartRequest(
            method=self.method,
            request=payload,
            digest=hashlib.sha256(payload.value).digest() if request_id else b"",
            parent=parent,
            request_id=request_id,
            **resource,
        )

    async def _validate(self, request: Any) -> None:
        if self._options.validate is None:
            return
        arguments = (self._servicer, request) if self._validates_with_servicer else (request,)
        result = self._options.validate(*arguments)
        if inspect.isawaitable(result):
            await result

    def _target(self, request: Any) -> str:
        if self._options.target is not None:
            return self._option("target", request)
        if self._conventions.name:
            return str(request.name)
        return str(request.parent) if self._conventions.parent else ""

    def _option(self, name: str, request: Any) -> str:
        """Return what the service says of a request; empty if it says nothing."""
        function = getattr(self._options, name)
        if function is None:
            return ""
        value = function(request)
        try:
            return text_of(f"what {name} returns", value)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"{self.method.name}: {error}") from error

    def _request_id(self, request: Any) -> str:
        """Return a request_id in the form in which equal ones are equal (AIP-202)."""
        given: str = request.request_id
        if len(given) > MAX_REQUEST_ID_LENGTH:
            raise InvalidArgumentError(
                "request_id", f"longer than {MAX_REQUEST_ID_LENGTH} characters"
            )
        if not given or not self._conventions.uuid4:
            return given
        try:
            parsed = UUID(given)
        except ValueError:
            parsed = None
        if parsed is None or str(parsed) != given.lower() or parsed.version != 4:  # noqa: PLR2004
            raise InvalidArgumentError("request_id", "must be a UUID of version 4")
        return str(parsed)

    def _validated(self, parent: str, request: Any) -> operations_pb2.Operation:
        """Return what a start would have begun: done, without a name, nothing stored."""
        now = self._engine.clock.now()
        return self._codec.to_proto(
            Operation(
                name="",
                parent=parent,
                method=self.method.name,
                target=self._target(request),
                create_time=now,
                update_time=now,
                end_time=now,
                state=State.SUCCEEDED,
                max_attempts=self.method.retry.max_attempts,
                metadata=Payload(self.method.metadata_type),
                response=pack(self._response_class()),
            )
        )

    async def _run(self, request: Payload, execution: ExecutionContext) -> Payload:
        """Run the handler; everything it may raise becomes the engine's."""
        metadata = self._metadata_class()
        metadata.MergeFromString(execution.operation.metadata.value)
        context: OperationContext[Message] = OperationContext(execution, metadata)
        message = self._request_class.FromString(request.value)
        try:
            response = await self._options.handler(self._servicer, message, context)
        except LeaseLostError:
            raise
        except (ServiceError, OutlastError, grpc.RpcError) as error:
            told = attempt_failure(error)
            if not isinstance(told, AttemptFailedError):
                raise
            if not isinstance(error, ServiceError) and told.status.code is Code.INTERNAL:
                _log.exception("the handler of operation %s failed", execution.operation.name)
            raise told from error
        return pack(self._checked_response(response, execution.operation.name))

    def _checked_response(self, response: object, operation: str) -> Message:
        if isinstance(response, self._response_class):
            return response
        expected = self._response_class.DESCRIPTOR.full_name
        given = response.DESCRIPTOR.full_name if isinstance(response, Message) else None
        _log.error(
            "%s returned %s for operation %s; it must return %s",
            self.method.name,
            given or type(response).__qualname__,
            operation,
            expected,
        )
        message = f"the method did not return a message of its response type, {expected}"
        raise AttemptFailedError(Status(Code.INTERNAL, message, reason="WRONG_RESPONSE_TYPE"))


def _result_types(method: MethodDescriptor) -> tuple[type[Message], type[Message]]:
    """Return the response and metadata types that a method's operation_info names."""
    where = f"{method.containing_service.file.name}: {method.full_name}"
    if method.client_streaming or method.server_streaming:
        raise ConfigurationError(
            f"{where} must take one request and return one {_OPERATION}, without streams, "
            "to be long-running"
        )
    if method.output_type.full_name != _OPERATION:
        raise ConfigurationError(f"{where} must return one {_OPERATION} to be long-running")
    info = _extension(method, operations_pb2.operation_info)
    return (
        _message_class(method, "response_type", info.response_type, where),
        _message_class(method, "metadata_type", info.metadata_type, where),
    )


def _message_class(method: MethodDescriptor, key: str, name: str, where: str) -> type[Message]:
    if not name:
        raise ConfigurationError(f"{where} has no {key} in google.longrunning.operation_info")
    full = name if "." in name else f"{method.containing_service.file.package}.{name}"
    try:
        return GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(full))
    except KeyError:
        raise ConfigurationError(
            f"{where}: the {key} {full!r} of operation_info is not known; "
            "import the _pb2 module that defines it"
        ) from None


def _extension(descriptor: FieldDescriptor | MethodDescriptor, extension: Any) -> Any:
    """Return an option of a field or a method; generated extensions have no precise type."""
    return descriptor.GetOptions().Extensions[extension]
