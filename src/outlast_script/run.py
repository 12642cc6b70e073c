"""One attempt to run a script."""

import asyncio
import os
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import uuid4

from outlastapi.script.v1 import script_pb2

import outlast
from outlast_script.details import failure

T = TypeVar("T")

KILLED = 137
"""The exit status of a process that a script killed; what a shell says of SIGKILL."""


class Run:
    """Takes the steps of a script, and keeps what it will answer."""

    def __init__(self, operation: outlast.OperationContext[Any]) -> None:
        self._operation = operation
        self._ignores_cancellation = False
        self._answers_wrongly = False
        self._id = uuid4().hex
        self._kills = 0
        self._response = script_pb2.RunScriptResponse(attempt=operation.attempt)

    @property
    def response(self) -> script_pb2.RunScriptResponse:
        """What the script answers, or something that no script may."""
        if self._answers_wrongly:
            return cast("script_pb2.RunScriptResponse", "not a message")
        return self._response

    async def take(self, step: script_pb2.Step) -> None:
        """Take a step, to its end if the script ignores cancellation."""
        if self._ignores_cancellation:
            await _to_the_end(self._take(step))
        else:
            await self._take(step)

    async def _take(self, step: script_pb2.Step) -> None:
        match step.WhichOneof("action"):
            case "sleep":
                await _sleep(step.sleep.ToTimedelta().total_seconds())
            case "progress":
                report = step.progress
                await self._operation.progress(
                    completed=report.completed, total=report.total, message=report.message
                )
            case "ignore_cancellation":
                self._ignores_cancellation = step.ignore_cancellation
            case "block":
                _block(step.block.ToTimedelta().total_seconds())
            case "answer":
                self._response.text = step.answer.text
                self._response.payload = bytes(step.answer.size)
            case "durable":
                await self._operation.step(step.durable.key, self._take_once, step.durable)
            case "kill_process" if step.kill_process:
                await self._kill_once()
            case "answer_wrong_type":
                self._answers_wrongly = step.answer_wrong_type
            case _:
                self._break_off(step)

    def _break_off(self, step: script_pb2.Step) -> None:
        """Take a step that may be the last."""
        attempt = self._operation.attempt
        match step.WhichOneof("action"):
            case "fail":
                raise failure(step.fail)
            case "fail_attempts" if attempt <= step.fail_attempts.attempts:
                text = f"attempt {attempt} failed as it was told to"
                if not step.fail_attempts.code:
                    raise RuntimeError(text)
                code = outlast.Code(step.fail_attempts.code)
                raise outlast.OperationFailed(code, text, reason="SCRIPT_FAILED")
            case "raise":
                raise RuntimeError(getattr(step, "raise"))
            case "exit" if step.exit:
                raise SystemExit
            case "kill_attempts" if attempt <= (step.kill_attempts.attempts or attempt):
                os._exit(KILLED)
            case _:  # what was told not to
                pass

    async def _kill_once(self) -> None:
        """Kill the process, unless an earlier run came here and did."""
        self._kills += 1
        first = await self._operation.step(f"kill_process {self._kills}", self._identify)
        if first == self._id:
            os._exit(KILLED)

    async def _identify(self) -> str:
        return self._id

    async def _take_once(self, durable: script_pb2.Step.Durable) -> None:
        if durable.witness:
            line = f"{self._operation.name} {self._operation.attempt}\n"
            await self._operation.run_in_thread(_append, durable.witness, line)
        await _sleep(durable.duration.ToTimedelta().total_seconds())


async def _sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)  # noqa: TID251  # real time is what the script asks for


def _block(seconds: float) -> None:
    """Keep the event loop from everything else, as a computation does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def _append(path: str, line: str) -> None:
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(line)


async def _to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Return what the work returns, however often the caller is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    while True:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
