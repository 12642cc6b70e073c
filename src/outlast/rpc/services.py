"""Services as generated code describes them, and their registration with a server."""

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor

from outlast.domain.checks import require
from outlast.domain.errors import ConfigurationError
from outlast.rpc.calls import CallLimit, bounded, guarded, is_async
from outlast.rpc.snapshots import Encoded


class Service:
    """A servicer with what the code that grpc_tools generated says about it.

    `parking` names the methods whose calls wait, and have a limit of their own. Raises
    ConfigurationError if it is not an instance of a generated servicer, and for a method
    that is not async.
    """

    def __init__(self, servicer: object, *, parking: Collection[str] = ()) -> None:
        self.servicer = servicer
        self._parking = parking
        self._generated = _generated_class(servicer)
        self._registered = _register(servicer, self._generated)
        self.name: str = self._registered.service_name()
        try:
            self.descriptor: ServiceDescriptor = descriptor_pool.Default().FindServiceByName(
                self.name
            )
        except KeyError as error:
            raise ConfigurationError(
                f"{type(servicer).__name__}: the descriptor of {self.name} is not loaded; "
                "import the service's _pb2 module"
            ) from error
        self._handlers = dict(self._written())

    @property
    def written(self) -> Collection[str]:
        """The names of the methods that the servicer has a function of its own for."""
        return self._handlers.keys()

    def add_to(
        self,
        server: grpc.aio.Server,
        max_request_bytes: int,
        limit: CallLimit,
        parking_limit: CallLimit,
    ) -> None:
        """Register the service, its handlers guarded and under a limit.

        Raises ConfigurationError for a server of threads.
        """
        require("server", server, grpc.aio.Server, "a server of grpc.aio.server()")
        handlers = {
            name: _guarded_handler(
                handler, max_request_bytes, parking_limit if name in self._parking else limit
            )
            for name, handler in self._handlers.items()
        }
        generic = grpc.method_handlers_generic_handler(self.name, handlers)
        server.add_generic_rpc_handlers((generic,))

    def _written(self) -> Iterator[tuple[str, Any]]:
        """Yield the handlers of the methods that the servicer has a function of its own for.

        One that is not async would run in a thread of grpc's, where nothing guards it.
        """
        for method in self.descriptor.methods:
            handler = self._registered.service(_CallDetails(f"/{self.name}/{method.name}"))
            if handler is None:  # the code was generated from an older proto
                continue
            function = _function_of(handler)
            if is_async(function):
                yield method.name, handler
            elif getattr(function, "__func__", None) is not vars(self._generated)[method.name]:
                raise ConfigurationError(
                    f"{type(self.servicer).__name__}.{method.name} must be an async def"
                )


@dataclass(frozen=True, slots=True)
class _CallDetails:
    """What a generic handler looks at when it is asked for a method's handler."""

    method: str


class _Capture:
    """Stands where generated code expects a server, and keeps what it is given."""

    def __init__(self) -> None:
        self.handler: Any = None

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Keep the handler of the service."""
        (self.handler,) = handlers

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Take what newer generated code says a second time."""


def _generated_class(servicer: object) -> type:
    """Return the class that grpc_tools generated and a servicer extends."""
    if isinstance(servicer, type):
        name = servicer.__name__
        raise ConfigurationError(f"{name} is a class; hand in a servicer, such as {name}()")
    for kind in type(servicer).__mro__:
        if _adding(kind) is not None:
            if kind is type(servicer):
                raise ConfigurationError(
                    f"{kind.__name__} is what grpc_tools generated; "
                    "extend it, and write its methods"
                )
            return kind
    raise ConfigurationError(
        f"{type(servicer).__name__} does not extend a servicer that grpc_tools generated; "
        "derive it from the …Servicer class of the service's _pb2_grpc module"
    )


def _adding(kind: type) -> Any:
    """Return the generated `add_…_to_server` of a class, None if it has none."""
    return getattr(sys.modules.get(kind.__module__), f"add_{kind.__name__}_to_server", None)


def _register(servicer: object, generated: type) -> Any:
    """Have the generated `add_…_to_server` register a servicer, and return what it made."""
    capture = _Capture()
    _adding(generated)(servicer, capture)
    return capture.handler


_FACTORIES = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


def _function_of(handler: Any) -> Any:
    """Return the servicer's method in a handler."""
    shape, _ = _FACTORIES[handler.request_streaming, handler.response_streaming]
    return getattr(handler, shape)


def _guarded_handler(
    handler: Any, max_request_bytes: int, limit: CallLimit
) -> "grpc.RpcMethodHandler[Any, Any]":
    _, make = _FACTORIES[handler.request_streaming, handler.response_streaming]
    function, decode = _function_of(handler), handler.request_deserializer
    if handler.request_streaming:
        function = guarded(function, limit=limit)
    else:
        function, decode = guarded(function, bounded(decode, max_request_bytes), limit), None
    return make(
        function,
        request_deserializer=decode,
        response_serializer=_encoder(handler.response_serializer),
    )


def _encoder(encode: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Return an encoder that lets pass what is encoded already."""
    return lambda response: response.data if isinstance(response, Encoded) else encode(response)
