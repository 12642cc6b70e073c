"""The OperationsAdminService: what operators ask."""

from datetime import timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from outlastapi.v1 import operations_admin_pb2 as admin_pb2
from outlastapi.v1 import operations_admin_pb2_grpc

from outlast.domain.names import check_operation_name
from outlast.domain.operation import Attempt, AttemptOutcome
from outlast.engine.manager import OperationManager
from outlast.ports import QueueStats
from outlast.rpc.calls import seconds_left
from outlast.rpc.codec import moment
from outlast.rpc.errors import status_to_proto

_OUTCOMES = {
    outcome: admin_pb2.OperationAttempt.Outcome.Value(outcome.name) for outcome in AttemptOutcome
}


class OperationsAdminServicer(operations_admin_pb2_grpc.OperationsAdminServiceServicer):
    """Attempts and queues, over one manager."""

    def __init__(self, manager: OperationManager) -> None:
        self._manager = manager

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


def _attempt(attempt: Attempt) -> admin_pb2.OperationAttempt:
    return admin_pb2.OperationAttempt(
        attempt=attempt.number,
        worker=attempt.worker,
        start_time=moment(attempt.start_time),
        end_time=moment(attempt.end_time),
        outcome=_OUTCOMES[attempt.outcome],
        error=None if attempt.error is None else status_to_proto(attempt.error),
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
