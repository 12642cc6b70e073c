"""A service whose handlers write down what they do, where no server can take it back."""

import asyncio
import os
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Self
from uuid import uuid4

from outlastapi.script.v1 import script_pb2, script_pb2_grpc

import outlast
from tests.chaos.history import Entry

AUDIT = "OUTLAST_CHAOS_AUDIT"
"""The environment variable that names the file."""

RETRY_DELAY_SECONDS = 0.3
"""How long after a failure the next attempt may begin."""

_RETRY = outlast.RetryPolicy(
    max_attempts=8,
    initial_backoff=timedelta(milliseconds=20),
    max_backoff=timedelta(milliseconds=500),
)


class ChaosService(script_pb2_grpc.ScriptServiceServicer):
    """Runs scripts of some kinds of steps, and answers with what they were given."""

    def __init__(self, audit: Path) -> None:
        # One write of a whole line to a file that is only appended to does not mix with others.
        self._file = os.open(audit, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Make a service that writes to the file that the environment names."""
        return cls(Path(environment[AUDIT]))

    @outlast.long_running(retry=_RETRY, exclusive=lambda request: request.exclusive_key)
    async def RunScript(
        self,
        request: script_pb2.RunScriptRequest,
        operation: outlast.OperationContext[script_pb2.RunScriptMetadata],
    ) -> script_pb2.RunScriptResponse:
        """Take the steps."""
        run = _Run(self._file, request.request_id, operation)
        run.note("began", value=request.exclusive_key)
        try:
            for step in request.steps:
                await run.take(step)
        except asyncio.CancelledError:
            run.note("stopped")
            raise
        except outlast.OperationFailed:
            raise
        except BaseException:
            run.note("broke")
            raise
        text = run.text
        run.note("ended", value=text)
        return script_pb2.RunScriptResponse(text=text, attempt=operation.attempt)


class _Run:
    """One call of the handler."""

    def __init__(
        self,
        file: int,
        request_id: str,
        operation: outlast.OperationContext[script_pb2.RunScriptMetadata],
    ) -> None:
        self._file = file
        self._request_id = request_id
        self._operation = operation
        self._run = uuid4().hex
        self._results: list[str] = []
        self._stubborn = False

    @property
    def text(self) -> str:
        """What this run answers; no other one answers the same."""
        return " ".join([self._run, *self._results])

    def note(self, event: str, key: str = "", value: str = "") -> None:
        """Write down what is being done."""
        entry = Entry(
            event,
            time.monotonic(),
            os.getpid(),
            self._run,
            self._operation.name,
            self._request_id,
            self._operation.attempt,
            self._operation.max_attempts,
            key,
            value,
            self._operation._execution.operation.lease_epoch,
        )
        os.write(self._file, entry.line())

    async def take(self, step: script_pb2.Step) -> None:
        """Take one step."""
        match step.WhichOneof("action"):
            case "durable":
                key = step.durable.key
                value = await self._operation.step(key, self._take_once, step.durable)
                self.note("got", key, value)
                self._results.append(value)
            case "progress":
                await self._operation.progress(
                    completed=step.progress.completed, total=step.progress.total
                )
            case "ignore_cancellation":
                self._stubborn = True
            case "sleep":
                await self._sleep(step.sleep.ToTimedelta().total_seconds())
            case "block":
                time.sleep(step.block.ToTimedelta().total_seconds())  # noqa: ASYNC251
            case "fail_attempts" if self._operation.attempt <= step.fail_attempts.attempts:
                self.note("failed")
                raise outlast.OperationFailed(
                    outlast.Code.UNAVAILABLE,
                    "told to fail for now",
                    retry_delay=timedelta(seconds=RETRY_DELAY_SECONDS),
                )
            case "fail":
                message = f"{step.fail.message}, says {self._run}"
                self.note("ended", value=message)
                raise outlast.OperationFailed(outlast.Code(step.fail.code), message)
            case _:  # an attempt that is not to fail
                pass

    async def _take_once(self, durable: script_pb2.Step.Durable) -> str:
        value = uuid4().hex[:8]
        self.note("ran", durable.key, value)
        await self._sleep(durable.duration.ToTimedelta().total_seconds())
        return value

    async def _sleep(self, seconds: float) -> None:
        """Sleep; who is stubborn goes on when told to stop, and learns it from the store."""
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            if not self._stubborn:
                raise
            self.note("ignored")
