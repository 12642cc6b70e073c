"""Services as generated code describes them, and their registration with a server."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor

from outlast.domain.checks import require
from outlast.domain.errors import ConfigurationError
from outlast.rpc.calls import guarded, is_async
from outlast.rpc.snapshots import Encoded


class Service:
    """A servicer with what the code that grpc_tools generated says about it.

    Raises ConfigurationError if it is not an instance of a generated servicer.
    """

    def __init__(self, servicer: object) -> None:
        self.servicer = servicer
        self._registered = _register(servicer)
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

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the service, its handlers guarded.

        Raises ConfigurationError for a server of threads.
        """
        require("server", server, grpc.aio.Server, "a server of grpc.aio.server()")
        handlers = {}
        for method in self.descriptor.methods:
            handler = self._registered.service(_CallDetails(f"/{self.name}/{method.name}"))
            if handler is not None:
                handlers[method.name] = _guarded_handler(handler)
        generic = grpc.method_handlers_generic_handler(self.name, handlers)
        server.add_generic_rpc_handlers((generic,))


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


def _register(servicer: object) -> Any:
    """Have the generated `add_…_to_server` register a servicer, and return what it made."""
    if isinstance(servicer, type):
        name = servicer.__name__
        raise ConfigurationError(f"{name} is a class; hand in a servicer, such as {name}()")
    for kind in type(servicer).__mro__:
        module = sys.modules.get(kind.__module__)
        add = getattr(module, f"add_{kind.__name__}_to_server", None)
        if add is not None:
            if kind is type(servicer):
                raise ConfigurationError(
                    f"{kind.__name__} is what grpc_tools generated; "
                    "extend it, and write its methods"
                )
            capture = _Capture()
            add(servicer, capture)
            return capture.handler
    raise ConfigurationError(
        f"{type(servicer).__name__} does not extend a servicer that grpc_tools generated; "
        "derive it from the …Servicer class of the service's _pb2_grpc module"
    )


_FACTORIES = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


def _guarded_handler(handler: Any) -> "grpc.RpcMethodHandler[Any, Any]":
    shape, make = _FACTORIES[handler.request_streaming, handler.response_streaming]
    function, decode = getattr(handler, shape), handler.request_deserializer
    if is_async(function):
        if handler.request_streaming:
            function = guarded(function)
        else:
            function, decode = guarded(function, decode), None
    return make(
        function,
        request_deserializer=decode,
        response_serializer=_encoder(handler.response_serializer),
    )


def _encoder(encode: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Return an encoder that lets pass what is encoded already."""
    return lambda response: response.data if isinstance(response, Encoded) else encode(response)
