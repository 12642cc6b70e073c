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
    OutlastError,
    PayloadTooLargeError,
    ServerStoppingError,
    TooManyCallsError,
)
from outlast.rpc.errors import abort

_Handler = Callable[[Any, Any], Any]
_Decode = Callable[[Any], Any]

_REPLY_MARGIN_SECONDS = 0.25
"""How long before the caller's deadline an answer is sent, so that it arrives."""


class CallLimit:
    """Lets in so many calls at a time; raises what `refuse` makes of the limit for one more.

    A call counts until its handler has ended and its reply is sent, or its caller gone:
    until then the reply is kept, and a caller need not read it.
    """

    def __init__(
        self, limit: int, refuse: Callable[[int], OutlastError] = TooManyCallsError
    ) -> None:
        self._limit = limit
        self._refuse = refuse
        self._under_way = 0
        self._closed = False
        self._left = asyncio.Event()

    def handling(self, context: Any) -> AbstractContextManager[None]:
        """Return what holds a place for the call with this context while its handler runs."""
        if self._closed:
            raise ServerStoppingError
        if self._under_way >= self._limit:
            raise self._refuse(self._limit)
        self._under_way += 1
        return _Place(self, context)

    def leave(self) -> None:
        """Make room for another call."""
        self._under_way -= 1
        if not self._under_way:
            self._left.set()

    async def close(self) -> None:
        """Let no call in any more; return when those that were let in are over."""
        self._closed = True
        if self._under_way:
            self._left.clear()
            await self._left.wait()


class _Place(AbstractContextManager[None]):
    """The place of one call under a limit, until two things have happened, in any order."""

    __slots__ = ("_limit", "_open")

    def __init__(self, limit: CallLimit, context: Any) -> None:
        self._limit = limit
        self._open = 2
        context.add_done_callback(self._close_one)

    def __exit__(self, *_: object) -> None:
        self._close_one()

    def _close_one(self, *_: object) -> None:
        self._open -= 1
        if not self._open:
            self._limit.leave()


def guarded(
    handler: _Handler,
    decode: _Decode = lambda request: request,
    limit: CallLimit | None = None,
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
    limit: CallLimit | None,
) -> _Handler:
    async def call(request: Any, context: Any) -> Any:
        task = asyncio.current_task()
        try:
            with limit.handling(context) if limit else nullcontext():
                return await handler(decode(request), context)
        except BaseException as error:  # noqa: BLE001  # the one place where RPCs end badly
            await _end(context, error, task)

    return call


def _guarded_stream(
    handler: Callable[[Any, Any], AsyncIterator[Any]],
    decode: _Decode,
    limit: CallLimit | None,
) -> _Handler:
    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        task = asyncio.current_task()
        try:
            with limit.handling(context) if limit else nullcontext():
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
