"""The OperationsAdminService: what operators ask."""

from datetime import timedelta
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf.duration_pb2 import Duration
from outlastapi.v1 import operations_admin_pb2 as admin_pb2
from outlastapi.v1 import operations_admin_pb2_grpc

from outlast.domain.names import check_operation_name, parent_of_collection
from outlast.domain.operation import Attempt, AttemptOutcome, Operation
from outlast.engine.engine import Engine
from outlast.engine.redriving import redrive_page
from outlast.ports import QueueStats
from outlast.rpc.calls import seconds_left
from outlast.rpc.codec import Codec, moment
from outlast.rpc.errors import status_to_proto
from outlast.rpc.queries import DEAD_LETTERS, Queries

_OUTCOMES = {
    outcome: admin_pb2.OperationAttempt.Outcome.Value(outcome.name) for outcome in AttemptOutcome
}


class OperationsAdminServicer(operations_admin_pb2_grpc.OperationsAdminServiceServicer):
    """Attempts, queues and redrives, over one engine."""

    def __init__(self, engine: Engine, codec: Codec) -> None:
        self._manager = engine.manager
        self._codec = codec
        self._queries = Queries(engine, codec)

    async def ListOperationAttempts(
        self, request: admin_pb2.ListOperationAttemptsRequest, context: Any
    ) -> admin_pb2.ListOperationAttemptsResponse:
        name = check_operation_name(request.name)
        attempts = await self._manager.attempts(name, seconds_left(context))
        return admin_pb2.ListOperationAttemptsResponse(attempts=map(_attempt, attempts))

    async def GetQueueStatistics(
        self, request: admin_pb2.GetQueueStatisticsRequest, context: Any
    ) -> admin_pb2.GetQueueStatisticsResponse:
        stats = await self._manager.stats(seconds_left(context))
        return admin_pb2.GetQueueStatisticsResponse(queues=map(_queue, stats))

    async def RedriveOperation(
        self, request: admin_pb2.RedriveOperationRequest, context: Any
    ) -> operations_pb2.Operation:
        name = check_operation_name(request.name)
        return self._codec.to_proto(await self._manager.redrive(name, seconds_left(context)))

    async def RedriveOperations(
        self, request: admin_pb2.RedriveOperationsRequest, context: Any
    ) -> admin_pb2.RedriveOperationsResponse:
        parent = parent_of_collection(request.parent, "parent")
        bound = "redrive", parent, request.filter
        query, matches = self._queries.query(
            parent,
            request.filter if request.filter.strip() else DEAD_LETTERS,
            request.page_size,
            request.page_token,
            *bound,
            parent_field="parent",
        )
        page = await redrive_page(self._manager, query, matches, seconds_left(context))
        return admin_pb2.RedriveOperationsResponse(
            redriven_operations=map(_redriven, page.operations),
            skipped_count=page.skipped,
            next_page_token=self._queries.next_page_token(page.next, *bound),
        )


def _redriven(operation: Operation) -> admin_pb2.RedrivenOperation:
    return admin_pb2.RedrivenOperation(name=operation.name, retried_from=operation.retried_from)


def _attempt(attempt: Attempt) -> admin_pb2.OperationAttempt:
    return admin_pb2.OperationAttempt(
        attempt=attempt.number,
        worker=attempt.worker,
        start_time=moment(attempt.start_time),
        end_time=moment(attempt.end_time),
        outcome=_OUTCOMES[attempt.outcome],
        error=None if attempt.error is None else status_to_proto(attempt.error),
        counted=attempt.counted,
    )


def _queue(stats: QueueStats) -> admin_pb2.QueueStatistics:
    return admin_pb2.QueueStatistics(
        method=stats.method,
        ready=stats.ready,
        delayed=stats.delayed,
        running=stats.running,
        dead_letters=stats.dead_letters,
        oldest_ready_age=_duration(stats.oldest_ready_age),
    )


def _duration(value: timedelta | None) -> Duration | None:
    if value is None:
        return None
    duration = Duration()
    duration.FromTimedelta(value)
    return duration
