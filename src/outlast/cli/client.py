"""The operations of any google.longrunning server."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from google.longrunning import operations_pb2
from google.longrunning.operations_pb2_grpc import OperationsStub
from google.protobuf.descriptor_pool import DescriptorPool

from outlast.cli.admin import AdminClient
from outlast.cli.channel import open_channel, routed, rpc_errors_reported
from outlast.cli.codec import snapshot_of
from outlast.cli.connection import Connection
from outlast.cli.exit_codes import ExitCode
from outlast.cli.failure import Failure
from outlast.cli.parameters import MAX_ANSWER_SECONDS
from outlast.cli.reflection import ServerTypes
from outlast.cli.snapshot import Snapshot

_MAX_EMPTY_PAGES = 1000
"""In a row: a filter may leave pages empty, but a list has to come to an end."""

# What a server may take on top of the time that it was asked to wait.
_WAIT_MARGIN_SECONDS = 2.0


@contextmanager
def connect(connection: Connection, within: float) -> Iterator["OperationsClient"]:
    """Open a client that waits so many seconds for an answer; it connects when first used."""
    with open_channel(connection) as channel:
        types = ServerTypes(channel, connection, within).pool
        yield OperationsClient(channel, connection, types, within)


class OperationsClient:
    """Calls the five standard methods; each raises Failure if it does not succeed."""

    def __init__(
        self,
        channel: grpc.Channel,
        connection: Connection,
        types: DescriptorPool,
        within: float = MAX_ANSWER_SECONDS,
    ) -> None:
        self._stub = OperationsStub(channel)
        self._connection = connection
        self._types = types
        self._timeout = min(within, MAX_ANSWER_SECONDS)
        self._can_wait = True
        self.admin = AdminClient(channel, connection, types, self._timeout)

    def get(self, name: str, within: float = math.inf) -> Snapshot:
        """Return an operation as it is, within so many seconds."""
        request = operations_pb2.GetOperationRequest(name=name)
        with rpc_errors_reported(self._connection):
            operation = self._stub.GetOperation(
                request, timeout=min(within, self._timeout), metadata=self._headers(name)
            )
        return snapshot_of(operation, self._types)

    def wait(self, name: str, seconds: float) -> Snapshot:
        """Return an operation when it is done, or as it is after so many seconds.

        The protocol allows a server to return it sooner without being done; one
        without WaitOperation returns it at once.
        """
        if not self._can_wait:
            return self.get(name, seconds + _WAIT_MARGIN_SECONDS)
        request = operations_pb2.WaitOperationRequest(name=name)
        request.timeout.FromNanoseconds(round(seconds * 1e9))
        with rpc_errors_reported(self._connection):
            try:
                operation = self._stub.WaitOperation(
                    request,
                    timeout=seconds + _WAIT_MARGIN_SECONDS,
                    metadata=self._headers(name),
                )
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    self._can_wait = False
                elif error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise
                return self.get(name, seconds + _WAIT_MARGIN_SECONDS)
        return snapshot_of(operation, self._types)

    def list(self, parent: str, filter_: str, page_size: int) -> Iterator[Snapshot]:
        """Return operations page by page, as they are asked for."""
        request = operations_pb2.ListOperationsRequest(
            name=parent, filter=filter_, page_size=page_size
        )
        tokens: set[str] = set()
        empty_pages = 0
        while True:
            with rpc_errors_reported(self._connection):
                page = self._stub.ListOperations(
                    request, timeout=self._timeout, metadata=self._headers(parent)
                )
            for operation in page.operations:
                yield snapshot_of(operation, self._types)
            if not page.next_page_token:
                return
            if page.next_page_token in tokens:
                raise _endless("the server gives the same pages again and again")
            empty_pages = 0 if page.operations else empty_pages + 1
            if empty_pages == _MAX_EMPTY_PAGES:
                raise _endless(f"the server gave {empty_pages} empty pages in a row")
            tokens.add(page.next_page_token)
            request.page_token = page.next_page_token

    def cancel(self, name: str) -> None:
        """Ask the server to cancel an operation."""
        request = operations_pb2.CancelOperationRequest(name=name)
        with rpc_errors_reported(self._connection):
            self._stub.CancelOperation(request, timeout=self._timeout, metadata=self._headers(name))

    def delete(self, name: str) -> None:
        """Ask the server to forget an operation."""
        request = operations_pb2.DeleteOperationRequest(name=name)
        with rpc_errors_reported(self._connection):
            self._stub.DeleteOperation(request, timeout=self._timeout, metadata=self._headers(name))

    def _headers(self, name: str) -> tuple[tuple[str, str], ...]:
        return routed(self._connection, name=name)


def _endless(what: str) -> Failure:
    return Failure(ExitCode.RPC_ERROR, f"{what}, and promises more; this is a fault of the server")
