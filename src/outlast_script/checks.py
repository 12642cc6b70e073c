"""What a script may ask for; everything else is refused before it starts."""

from collections.abc import Iterable

from google.protobuf import duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import status_pb2
from outlastapi.script.v1 import script_pb2

import outlast
from outlast_script.details import unpacked

MAX_STEPS = 1000
MAX_KEY_LENGTH = 256
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""More than a server takes as a response, so that its limit can be met."""
MAX_SECONDS = 24 * 60 * 60

_NANOS_PER_SECOND = 1_000_000_000


def check_run(request: script_pb2.RunScriptRequest) -> None:
    """Raise InvalidArgumentError unless every step can be taken."""
    _check_steps(request.steps)


def check_erase(request: script_pb2.EraseScriptRequest) -> None:
    """Raise InvalidArgumentError unless every step can be taken and none answers."""
    _check_steps(request.steps)
    for number, step in enumerate(request.steps):
        if step.HasField("answer"):
            raise outlast.InvalidArgumentError(
                f"steps[{number}].answer", "a script that erases answers nothing"
            )


def _check_steps(steps: Iterable[script_pb2.Step]) -> None:
    keys: set[str] = set()
    for number, step in enumerate(steps):
        if number == MAX_STEPS:
            raise outlast.InvalidArgumentError("steps", f"more than {MAX_STEPS}")
        _check_step(step, f"steps[{number}]")
        if step.HasField("durable"):
            if step.durable.key in keys:
                raise outlast.InvalidArgumentError(
                    f"steps[{number}].durable.key", "another step has the same key"
                )
            keys.add(step.durable.key)


def _check_step(step: script_pb2.Step, where: str) -> None:
    action = step.WhichOneof("action")
    where = f"{where}.{action}" if action else where
    match action:
        case None:
            raise outlast.InvalidArgumentError(where, "must have an action")
        case "sleep":
            _check_duration(step.sleep, where)
        case "block":
            _check_duration(step.block, where)
        case "progress":
            _check_range(step.progress.completed, f"{where}.completed")
            _check_range(step.progress.total, f"{where}.total")
        case "fail_attempts":
            _check_range(step.fail_attempts.attempts, f"{where}.attempts")
            _check_code(step.fail_attempts.code, f"{where}.code", lowest=0)
        case "kill_attempts":
            _check_range(step.kill_attempts.attempts, f"{where}.attempts")
        case "fail":
            _check_status(step.fail, where)
        case "answer":
            _check_range(step.answer.size, f"{where}.size", MAX_ANSWER_BYTES)
        case "durable":
            _check_key(step.durable.key, f"{where}.key")
            _check_duration(step.durable.duration, f"{where}.duration")
        case _:  # the others are a truth value or any text
            pass


def _check_duration(duration: duration_pb2.Duration, field: str) -> None:
    well_formed = 0 <= duration.seconds <= MAX_SECONDS and 0 <= duration.nanos < _NANOS_PER_SECOND
    if not well_formed:
        raise outlast.InvalidArgumentError(field, f"must be from 0 to {MAX_SECONDS} seconds")


def _check_range(value: int, field: str, highest: int | None = None, *, lowest: int = 0) -> None:
    if value < lowest:
        raise outlast.InvalidArgumentError(field, f"must be at least {lowest}, not {value}")
    if highest is not None and value > highest:
        raise outlast.InvalidArgumentError(field, f"must be at most {highest}, not {value}")


def _check_key(key: str, field: str) -> None:
    if not 1 <= len(key) <= MAX_KEY_LENGTH:
        raise outlast.InvalidArgumentError(
            field, f"must have from 1 to {MAX_KEY_LENGTH} characters, not {len(key)}"
        )


def _check_status(status: status_pb2.Status, where: str) -> None:
    _check_code(status.code, f"{where}.code", lowest=1)
    if not status.message:
        raise outlast.InvalidArgumentError(f"{where}.message", "must not be empty")
    kinds: set[str] = set()
    for number, detail in enumerate(status.details):
        try:
            unpacked(detail)
        except (KeyError, DecodeError) as error:
            raise outlast.InvalidArgumentError(
                f"{where}.details[{number}]", "must be a message of a type that the server knows"
            ) from error
        if detail.type_url in kinds:
            raise outlast.InvalidArgumentError(
                f"{where}.details[{number}]", "another detail has the same type"
            )
        kinds.add(detail.type_url)


def _check_code(code: int, field: str, *, lowest: int) -> None:
    highest = max(outlast.Code)
    if not lowest <= code <= highest:
        raise outlast.InvalidArgumentError(
            field, f"must be a google.rpc.Code from {lowest} to {highest}, not {code}"
        )
