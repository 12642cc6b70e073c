"""The google.longrunning.Operations service."""

import logging
from typing import Any

from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import empty_pb2
from google.protobuf.duration_pb2 import Duration

from outlast.domain.errors import InvalidArgumentError, UnsupportedError
from outlast.domain.names import check_operation_name, parent_of_collection
from outlast.domain.operation import Operation
from outlast.engine.engine import Engine
from outlast.rpc.calls import seconds_left
from outlast.rpc.codec import Codec
from outlast.rpc.queries import Queries
from outlast.rpc.snapshots import Encoded

_log = logging.getLogger(__name__)

_MAX_DURATION_SECONDS = 315_576_000_000
_MAX_NANOS = 999_999_999


class OperationsServicer(operations_pb2_grpc.OperationsServicer):
    """The five standard methods, over one engine.

    Where many callers may ask for one operation, they are answered with the same bytes.
    """

    def __init__(self, engine: Engine, codec: Codec) -> None:
        self._manager = engine.manager
        self._codec = codec
        self._queries = Queries(engine, codec)

    async def GetOperation(
        self, request: operations_pb2.GetOperationRequest, context: Any
    ) -> Encoded:
        operation = self._manager.peek(request.name)
        if operation is None:
            name = check_operation_name(request.name)
            operation = await self._manager.get(name, seconds_left(context))
        return self._codec.encoded(operation)

    async def WaitOperation(
        self, request: operations_pb2.WaitOperationRequest, context: Any
    ) -> Encoded:
        name = check_operation_name(request.name)
        left = seconds_left(context)
        limits = [left] if left is not None else []
        if request.HasField("timeout"):
            limits.append(_seconds(request.timeout))
        operation = await self._manager.wait(name, min(limits, default=None), left)
        return self._codec.encoded(operation)

    async def CancelOperation(
        self, request: operations_pb2.CancelOperationRequest, context: Any
    ) -> empty_pb2.Empty:
        await self._manager.cancel(check_operation_name(request.name), seconds_left(context))
        return empty_pb2.Empty()

    async def DeleteOperation(
        self, request: operations_pb2.DeleteOperationRequest, context: Any
    ) -> empty_pb2.Empty:
        await self._manager.delete(check_operation_name(request.name), seconds_left(context))
        return empty_pb2.Empty()

    async def ListOperations(
        self, request: operations_pb2.ListOperationsRequest, context: Any
    ) -> operations_pb2.ListOperationsResponse:
        if request.return_partial_success:
            raise UnsupportedError("return_partial_success")
        parent = parent_of_collection(request.name)
        bound = parent, request.filter
        query, matches = self._queries.query(
            parent, request.filter, request.page_size, request.page_token, *bound
        )
        page = await self._manager.list_page(query, matches, seconds_left(context))
        return operations_pb2.ListOperationsResponse(
            operations=filter(None, map(self._listed, page.operations)),
            next_page_token=self._queries.next_page_token(page.next, *bound),
        )

    def _listed(self, operation: Operation) -> operations_pb2.Operation | None:
        """Return a snapshot; None for a record that cannot be shown: it must hide no other."""
        try:
            return self._codec.to_proto(operation)
        except Exception:  # noqa: BLE001  # whatever is wrong with the record
            _log.exception("operation %r cannot be listed", operation.name)
            return None


def _seconds(timeout: Duration) -> float:
    """Return a duration in seconds; raise unless it is well formed and not negative."""
    seconds, nanos = timeout.seconds, timeout.nanos
    if not (0 <= seconds <= _MAX_DURATION_SECONDS and 0 <= nanos <= _MAX_NANOS):
        raise InvalidArgumentError("timeout", "must be a valid duration that is not negative")
    return seconds + nanos / 1e9
