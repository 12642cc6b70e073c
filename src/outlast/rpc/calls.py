"""Handlers of RPCs, wrapped once so that none needs a try/except of its own."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from outlast.rpc.errors import abort

_Handler = Callable[[Any, Any], Any]

_REPLY_MARGIN_SECONDS = 0.25
"""How long before the caller's deadline an answer is sent, so that it arrives."""


def guarded(handler: _Handler) -> _Handler:
    """Return a handler that ends RPCs with rich errors instead of raising.

    Handlers that are not async run in grpc's threads and stay as they are.
    """
    if inspect.isasyncgenfunction(handler):
        return _guarded_stream(handler)
    if inspect.iscoroutinefunction(handler):
        return _guarded_call(handler)
    return handler


def _guarded_call(handler: Callable[[Any, Any], Awaitable[Any]]) -> _Handler:
    async def call(request: Any, context: Any) -> Any:
        try:
            return await handler(request, context)
        except (grpc.aio.AbortError, grpc.aio.BaseError):
            raise
        except Exception as error:  # noqa: BLE001  # the one place where RPCs end badly
            await abort(context, error)

    return call


def _guarded_stream(handler: Callable[[Any, Any], AsyncIterator[Any]]) -> _Handler:
    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for message in handler(request, context):
                yield message
        except (grpc.aio.AbortError, grpc.aio.BaseError):
            raise
        except Exception as error:  # noqa: BLE001  # as above
            await abort(context, error)

    return stream


def seconds_left(context: Any) -> float | None:
    """Return how long an answer may take to be in time; None without a deadline."""
    left: float | None = context.time_remaining()
    if left is None:
        return None
    return max(0.0, left - min(_REPLY_MARGIN_SECONDS, left / 10))
