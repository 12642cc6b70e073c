"""What types a server has, asked through server reflection."""

from collections.abc import Callable, Sequence
from contextlib import suppress

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_database import DescriptorDatabase
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha.reflection_pb2 import (
    ServerReflectionRequest,
    ServerReflectionResponse,
)

from outlast.cli.connection import Connection

RPC_TIMEOUT_SECONDS = 10.0

# Two names for one protocol: the messages are the same on the wire.
_METHODS = (
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)


class NoReflectionError(Exception):
    """The server does not offer reflection."""


class ServerTypes:
    """The types of a server, and those that this program knows itself.

    `pool` fetches what it is asked for. Without reflection it has our own types only. No
    question takes longer than `within` seconds, nor than RPC_TIMEOUT_SECONDS.
    """

    def __init__(
        self, channel: grpc.Channel, connection: Connection, within: float = RPC_TIMEOUT_SECONDS
    ) -> None:
        self._methods = [
            channel.stream_stream(
                path,
                request_serializer=ServerReflectionRequest.SerializeToString,
                response_deserializer=ServerReflectionResponse.FromString,
            )
            for path in _METHODS
        ]
        self._headers = connection.headers
        self._timeout = min(within, RPC_TIMEOUT_SECONDS)
        self._files = DescriptorDatabase()
        self._known: set[str] = set()
        self._missing: set[str] = set()
        self._given: set[str] = set()
        self.pool = descriptor_pool.DescriptorPool(self)

    def services(self) -> Sequence[str]:
        """Return the full names of the server's services.

        Raises NoReflectionError, or grpc.RpcError if the server cannot be asked.
        """
        response = self._ask(ServerReflectionRequest(list_services="*"))
        return sorted(service.name for service in response.list_services_response.service)

    # The pool looks for types by calling these two; KeyError means that there are none.

    def FindFileByName(self, name: str) -> FileDescriptorProto:  # noqa: N802
        """Return a file, the server's if it has one of this name."""
        if name in self._given:
            raise KeyError(name)  # the pool has it, or files import one another in a circle
        return self._find(
            name,
            self._files.FindFileByName,
            ServerReflectionRequest(file_by_filename=name),
            descriptor_pool.Default().FindFileByName,
        )

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptorProto:  # noqa: N802
        """Return the file that declares a type or a service."""
        return self._find(
            symbol,
            self._files.FindFileContainingSymbol,
            ServerReflectionRequest(file_containing_symbol=symbol),
            descriptor_pool.Default().FindFileContainingSymbol,
        )

    def _find(
        self,
        name: str,
        known: Callable[[str], FileDescriptorProto],
        request: ServerReflectionRequest,
        our_own: Callable[[str], FileDescriptor],
    ) -> FileDescriptorProto:
        file = self._of_server(name, known, request)
        if file is None:
            file = FileDescriptorProto()
            our_own(name).CopyToProto(file)
        self._given.add(file.name)
        return file

    def _of_server(
        self,
        name: str,
        known: Callable[[str], FileDescriptorProto],
        request: ServerReflectionRequest,
    ) -> FileDescriptorProto | None:
        with suppress(KeyError):
            return known(name)
        if name not in self._missing and self._fetch(request):
            with suppress(KeyError):
                return known(name)
            self._missing.add(name)
        return None

    def _fetch(self, request: ServerReflectionRequest) -> bool:
        """Get to know the files that a request is answered with; return if it was answered.

        Types are a help, not what the person asked for: it never fails.
        """
        try:
            response = self._ask(request)
        except NoReflectionError:
            return False
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:  # it may be back for the next type
                self._methods.clear()
            return False
        for content in response.file_descriptor_response.file_descriptor_proto:
            with suppress(DecodeError):
                file = FileDescriptorProto.FromString(content)
                if file.name not in self._known:
                    self._known.add(file.name)
                    self._files.Add(file)
        return True

    def _ask(self, request: ServerReflectionRequest) -> ServerReflectionResponse:
        """Send one request, by the first version of the protocol that the server has."""
        while self._methods:
            call = self._methods[0](iter([request]), timeout=self._timeout, metadata=self._headers)
            try:
                response: ServerReflectionResponse | None = next(call, None)
            except grpc.RpcError:
                if call.code() is not grpc.StatusCode.UNIMPLEMENTED:
                    raise
                response = None
            if response is not None:
                return response
            self._methods.pop(0)
        raise NoReflectionError
