"""The script service: what each RPC does."""

from datetime import timedelta

from google.protobuf import empty_pb2
from outlastapi.script.v1 import script_pb2, script_pb2_grpc
from outlastapi.v1 import operation_metadata_pb2

import outlast
from outlast_script.checks import check_erase, check_run
from outlast_script.run import Run

# Short, so that a test of retries is over soon.
_RETRY = outlast.RetryPolicy(
    initial_backoff=timedelta(milliseconds=20), max_backoff=timedelta(milliseconds=500)
)


class ScriptService(script_pb2_grpc.ScriptServiceServicer):
    """Runs scripts. A server offers it only when asked to."""

    @outlast.long_running(
        retry=_RETRY, validate=check_run, exclusive=lambda request: request.exclusive_key
    )
    async def RunScript(
        self,
        request: script_pb2.RunScriptRequest,
        operation: outlast.OperationContext[script_pb2.RunScriptMetadata],
    ) -> script_pb2.RunScriptResponse:
        counts = operation.metadata
        counts.Clear()  # what the attempt before left
        run = Run(operation)
        for step in request.steps:
            counts.steps_taken += 1
            counts.taken[str(step.WhichOneof("action"))] += 1
            await run.take(step)
        return run.response

    @outlast.long_running(retry=_RETRY, validate=check_erase)
    async def EraseScript(
        self,
        request: script_pb2.EraseScriptRequest,
        operation: outlast.OperationContext[operation_metadata_pb2.OperationMetadata],
    ) -> empty_pb2.Empty:
        run = Run(operation)
        for step in request.steps:
            await run.take(step)
        return empty_pb2.Empty()
