"""Handlers of RPCs, wrapped once so that none needs a try/except of its own."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from outlast.domain.errors import (
    InvalidArgumentError,
    PayloadTooLargeError,
    TooManyCallsError,
)
from outlast.rpc.errors import abort

_Handler = Callable[[Any, Any], Any]
_Decode = Callable[[Any], Any]

_REPLY_MARGIN_SECONDS = 0.25
"""How long before the caller's deadline an answer is sent, so that it arrives."""


class CallLimit:
    """Lets in so many calls at a time; raises TooManyCallsError for one more."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._under_way = 0

    def __enter__(self) -> None:
        if self._under_way >= self._limit:
            raise TooManyCallsError(self._limit)
        self._under_way += 1

    def __exit__(self, *_: object) -> None:
        self._under_way -= 1


def guarded(
    handler: _Handler,
    decode: _Decode = lambda request: request,
    limit: AbstractContextManager[None] = nullcontext(),  # noqa: B008  # it has no state
) -> _Handler:
    """Return a handler that ends RPCs with rich errors instead of raising.

    It decodes its requests itself, because grpc answers what it cannot decode with
    UNKNOWN and the text of an exception; see `bounded`. Handlers that are not async run
    in grpc's threads and must not be handed in; see `is_async`.
    """
    if inspect.isasyncgenfunction(handler):
        return _guarded_stream(handler, decode, limit)
    return _guarded_call(handler, decode, limit)


def bounded(decode: _Decode, limit: int) -> _Decode:
    """Return a decoder that refuses what is larger than a limit, in bytes, or no message."""

    def decoded(data: bytes) -> Any:
        if len(data) > limit:
            raise PayloadTooLargeError("the request", len(data), limit)
        try:
            return decode(data)
        except DecodeError as error:
            raise InvalidArgumentError("request", "not a message of the request's type") from error

    return decoded


def is_async(handler: _Handler) -> bool:
    """Whether a handler runs on the event loop."""
    return inspect.isasyncgenfunction(handler) or inspect.iscoroutinefunction(handler)


def _guarded_call(
    handler: Callable[[Any, Any], Awaitable[Any]],
    decode: _Decode,
    limit: AbstractContextManager[None],
) -> _Handler:
    async def call(request: Any, context: Any) -> Any:
        task = asyncio.current_task()
        try:
            with limit:
                return await handler(decode(request), context)
        except BaseException as error:  # noqa: BLE001  # the one place where RPCs end badly
            await _end(context, error, task)

    return call


def _guarded_stream(
    handler: Callable[[Any, Any], AsyncIterator[Any]],
    decode: _Decode,
    limit: AbstractContextManager[None],
) -> _Handler:
    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        task = asyncio.current_task()
        try:
            with limit:
                async for message in handler(decode(request), context):
                    try:
                        yield message
                    except GeneratorExit:  # nobody wants the others
                        return
        except BaseException as error:  # noqa: BLE001  # as above
            await _end(context, error, task)

    return stream


async def _end(context: Any, error: BaseException, task: "asyncio.Task[Any] | None") -> NoReturn:
    """End an RPC because of what its handler, run by a task, raised.

    Everything is answered: after a CancelledError that is let through, the caller
    waits for ever, and a SystemExit ends the server.
    """
    match error:
        case asyncio.CancelledError():
            over = task is not None and task.cancelling() > 0
        case GeneratorExit():
            over = not _is_run_by(task)
        case _:
            over = isinstance(error, (grpc.aio.AbortError, grpc.aio.BaseError))
    if over:
        raise error
    await abort(context, error)


def _is_run_by(task: "asyncio.Task[Any] | None") -> bool:
    """Whether a task runs this; what is thrown away is closed by another, or outside the loop."""
    try:
        return asyncio.current_task() is task
    except RuntimeError:
        return False


def seconds_left(context: Any) -> float | None:
    """Return how long an answer may take to be in time; None without a deadline."""
    left: float | None = context.time_remaining()
    if left is None:
        return None
    return max(0.0, left - min(_REPLY_MARGIN_SECONDS, left / 10))
