"""What a handler is given besides its request."""

import inspect
import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Generic, TypeVar, overload

from google.protobuf import descriptor_pool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from outlastapi.v1.operation_metadata_pb2 import OperationMetadata

from outlast.domain.checks import require
from outlast.domain.errors import ConfigurationError, LeaseLostError
from outlast.domain.operation import Progress
from outlast.domain.status import Payload
from outlast.engine.context import ExecutionContext
from outlast.engine.retry import RetryPolicy
from outlast.rpc.codec import MAX_COUNT, metadata_field
from outlast.rpc.errors import TYPE_PREFIX, attempt_failure, pack, text_of

M = TypeVar("M", bound=Message)
T = TypeVar("T")

MAX_STEP_KEY_BYTES = 1024
"""How long a key of a step may be in UTF-8: stores have indexes over them."""

_JSON_TYPE = "application/json"
_ONCE = RetryPolicy(max_attempts=1)


class OperationContext(Generic[M]):
    """One attempt of an operation, as its handler sees it.

    A handler is told to stop by CancelledError: on CancelOperation, at its deadline,
    when the server stops, and when it has lost its operation to another worker. What
    it does then is clean up and let the error pass.
    """

    def __init__(self, execution: ExecutionContext, metadata: M) -> None:
        self.metadata = metadata
        """The service's own metadata: change its fields, `progress` keeps them.

        It is what the attempt before left. The field that the framework fills is empty.
        """
        self._execution = execution
        self._metadata_class = type(metadata)

    @property
    def name(self) -> str:
        """The name of the operation; with a step's key, an idempotency key to pass on."""
        return self._execution.operation.name

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        return self._execution.operation.attempt

    @property
    def max_attempts(self) -> int:
        """How many attempts there are at most."""
        return self._execution.operation.max_attempts

    @property
    def deadline(self) -> datetime | None:
        """When the operation must have ended, if its method has a timeout."""
        return self._execution.operation.deadline

    @property
    def cancel_requested(self) -> bool:
        """Whether the handler was told to stop because a caller cancelled."""
        return self._execution.cancel_requested

    async def progress(
        self, *, completed: int = 0, total: int = 0, stage: str = "", message: str = ""
    ) -> None:
        """Report how far the work is, and keep `metadata` as it is now, durably.

        `total` is 0 if unknown; one that `completed` has passed is raised to it. Raises
        TypeError or ValueError, and writes nothing, for numbers that are not whole,
        negative or larger than 64 bits, and for text that UTF-8 cannot encode; and
        PayloadTooLargeError if the metadata is too large.
        """
        completed = _count("completed", completed)
        total = _count("total", total)
        stage = text_of("stage", stage)
        message = text_of("message", message)
        if 0 < total < completed:
            total = completed
        progress = Progress(
            completed, total, stage, message, self._execution.estimate_end(completed, total)
        )
        if not isinstance(self.metadata, self._metadata_class):
            raise TypeError(f"metadata must stay a {self._metadata_class.DESCRIPTOR.full_name}")
        await self._execution.report(progress, own_metadata(self.metadata))

    @overload
    async def step(
        self,
        key: str,
        function: Callable[..., Awaitable[T]],
        *args: Any,
        retry: RetryPolicy | None = None,
    ) -> T: ...

    @overload
    async def step(
        self, key: str, function: Callable[..., T], *args: Any, retry: RetryPolicy | None = None
    ) -> T: ...

    async def step(
        self,
        key: str,
        function: Callable[..., Any],
        *args: Any,
        retry: RetryPolicy | None = None,
    ) -> Any:
        """Do a part of the work that is not to be done again; return its result.

        If an earlier attempt recorded a result under the key, that is returned and
        nothing is called. Otherwise `function(*args)` is called, awaited if it is async
        and run in a thread if not, and its result recorded durably. The result is a
        protobuf message or what JSON can hold, with keys that are strings, and comes back
        from the record equal to what was returned (tuples as lists). After a crash
        between the two the step is done again.

        With `retry`, a failure that the policy retries is tried again here, after its
        pause, before it fails this attempt; without, at once the operation's own policy
        decides. Raises DuplicateStepError for a key used before in this attempt, and
        TypeError or ValueError, before the call, for a key that is no text of up to
        MAX_STEP_KEY_BYTES, or that UTF-8 cannot encode.
        """
        key = text_of("the key of a step", key)
        if not 0 < len(key.encode()) <= MAX_STEP_KEY_BYTES:
            raise ValueError(f"the key of a step has 1 to {MAX_STEP_KEY_BYTES} bytes")
        recorded = await self._execution.recorded_step(key)
        if recorded is not None:
            return _unpack_result(recorded)
        if retry is not None:
            require("retry", retry, RetryPolicy, "a RetryPolicy")
        result = await self._tried(key, retry or _ONCE, function, *args)
        packed, result = _pack_result(key, result)
        await self._execution.record_step(key, packed)
        return result

    async def run_in_process(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function in another process: for work that takes the processor.

        Function, arguments and result must pickle. The process is killed when this
        attempt is told to stop. Raises what the function raises.
        """
        return await self._execution.run_in_process(function, *args)

    async def run_in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function in a thread: for calls that block. It cannot be stopped."""
        return await self._execution.run_in_thread(function, *args)

    async def _tried(
        self, key: str, policy: RetryPolicy, function: Callable[..., Any], *args: Any
    ) -> Any:
        tries = 1
        while True:
            try:
                return await self._call(function, *args)
            except LeaseLostError:
                raise
            except Exception as error:
                told = attempt_failure(error)
                if not await self._execution.try_step_again(key, policy, tries, told):
                    raise
            tries += 1

    async def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        if inspect.iscoroutinefunction(function):
            return await function(*args)
        result = await self._execution.run_in_thread(function, *args)
        return await result if inspect.isawaitable(result) else result


def own_metadata(metadata: Message) -> Payload:
    """Pack a metadata message without the part that the framework fills."""
    if isinstance(metadata, OperationMetadata):
        return pack(OperationMetadata())
    field = metadata_field(metadata.DESCRIPTOR)
    if field is not None:
        metadata.ClearField(field.name)
    return pack(metadata)


def _count(name: str, value: object) -> int:
    """Return a count that can be recorded, as an int and no more; see `text_of`."""
    if not isinstance(value, int):
        msg = f"{name} must be a whole number, not {value!r}"
        raise TypeError(msg)
    count = int.__index__(value)
    if not 0 <= count <= MAX_COUNT:
        msg = f"{name} must be from 0 to 2**63 - 1, not {count}"
        raise ValueError(msg)
    return count


def _pack_result(key: str, result: Any) -> tuple[Payload, Any]:
    """Return the record of a result, and what comes back from it."""
    if isinstance(result, Message):
        packed = pack(result)
        return packed, _unpack_result(packed)
    try:
        packed = Payload(_JSON_TYPE, json.dumps(result, allow_nan=False).encode())
        _require_text_keys(result)
        return packed, _unpack_result(packed)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"the result of step {key!r} is neither a protobuf message nor JSON: {error}"
        ) from error


def _require_text_keys(result: Any) -> None:
    """Raise TypeError for keys that JSON would make strings, and perhaps equal ones."""
    left = [result]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise TypeError(f"keys must be str, not {type(key).__name__}")
            left.extend(value.values())
        elif isinstance(value, (list, tuple)):
            left.extend(value)


def _unpack_result(payload: Payload) -> Any:
    if payload.type_url == _JSON_TYPE:
        return json.loads(payload.value)
    name = payload.type_url.removeprefix(TYPE_PREFIX)
    message_class = GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(name))
    return message_class.FromString(payload.value)
