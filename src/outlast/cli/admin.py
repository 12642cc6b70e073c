"""What only Outlast servers can do: their OperationsAdminService."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from outlastapi.v1 import operations_admin_pb2 as admin_pb2
from outlastapi.v1.operations_admin_pb2_grpc import OperationsAdminServiceStub

from outlast.cli.channel import routed, rpc_errors_reported
from outlast.cli.codec import attempt_of, snapshot_of
from outlast.cli.connection import Connection
from outlast.cli.exit_codes import ExitCode
from outlast.cli.failure import Failure
from outlast.cli.snapshot import Attempt, Snapshot

SERVICE = admin_pb2.DESCRIPTOR.services_by_name["OperationsAdminService"].full_name


class AdminClient:
    """Calls the admin service; each method raises Failure if it does not succeed."""

    def __init__(
        self,
        channel: grpc.Channel,
        connection: Connection,
        types: DescriptorPool,
        timeout_seconds: float,
    ) -> None:
        self._stub = OperationsAdminServiceStub(channel)
        self._connection = connection
        self._types = types
        self._timeout = timeout_seconds

    def attempts(self, name: str) -> Sequence[Attempt]:
        """Return the attempts of an operation, the oldest first."""
        request = admin_pb2.ListOperationAttemptsRequest(name=name)
        with self._errors_reported():
            answer = self._stub.ListOperationAttempts(
                request, timeout=self._timeout, metadata=routed(self._connection, name=name)
            )
        return [attempt_of(attempt, self._types) for attempt in answer.attempts]

    def redrive(self, name: str) -> Snapshot:
        """Have the work of an operation done again; return the new operation."""
        request = admin_pb2.RedriveOperationRequest(name=name)
        with self._errors_reported():
            operation = self._stub.RedriveOperation(
                request, timeout=self._timeout, metadata=routed(self._connection, name=name)
            )
        return snapshot_of(operation, self._types)

    def redrive_page(
        self, parent: str, filter_: str, page_size: int, page_token: str
    ) -> admin_pb2.RedriveOperationsResponse:
        """Have the work of all that a page of a filter finds done again."""
        request = admin_pb2.RedriveOperationsRequest(
            parent=parent, filter=filter_, page_size=page_size, page_token=page_token
        )
        with self._errors_reported():
            return self._stub.RedriveOperations(
                request, timeout=self._timeout, metadata=routed(self._connection, parent=parent)
            )

    @contextmanager
    def _errors_reported(self) -> Iterator[None]:
        with rpc_errors_reported(self._connection):
            try:
                yield
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                    raise
                raise Failure(
                    ExitCode.RPC_ERROR,
                    f"the server at {self._connection.address} cannot do this: "
                    f"it has no {SERVICE} that can (UNIMPLEMENTED)",
                    "retries and attempts are for Outlast servers; is it the right --address?",
                ) from error
