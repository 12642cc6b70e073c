"""The decorator: a servicer method that starts an operation and one that does its work."""

import functools
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Never, TypeVar

from google.longrunning import operations_pb2
from google.protobuf.message import Message

from outlast.domain.checks import require_function
from outlast.domain.errors import ConfigurationError
from outlast.engine.methods import check_limits
from outlast.engine.retry import RetryPolicy
from outlast.rpc.context import OperationContext

S = TypeVar("S")
Req = TypeVar("Req", bound=Message)
Resp = TypeVar("Resp", bound=Message)
M = TypeVar("M", bound=Message)

_OPTIONS = "__outlast_options__"
_STARTS = "__outlast_starts__"

Handler = Callable[[S, Req, OperationContext[M]], Awaitable[Resp]]
Start = Callable[[Any, Any], Awaitable[operations_pb2.Operation]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the decorator was told, and the function that it decorates."""

    handler: Callable[[Any, Any, Any], Awaitable[Any]]
    retry: RetryPolicy
    timeout: timedelta | None
    retention: timedelta
    concurrency: int | None
    max_running: int | None
    max_pending: int | None
    validate: Callable[..., Awaitable[None] | None] | None
    exclusive: Callable[[Any], str] | None
    target: Callable[[Any], str] | None


def long_running(
    *_misplaced: Never,
    retry: RetryPolicy | None = None,
    timeout: timedelta | None = None,  # of the operation, not of this call
    retention: timedelta = timedelta(days=30),
    concurrency: int | None = None,
    max_running: int | None = None,
    max_pending: int | None = None,
    validate: Callable[..., Awaitable[None] | None] | None = None,
    exclusive: Callable[[Any], str] | None = None,  # Any: a lambda's request has no type
    target: Callable[[Any], str] | None = None,
) -> Callable[
    [Callable[[S, Req, OperationContext[M]], Awaitable[Resp]]],
    Callable[[S, Req, Any], Awaitable[operations_pb2.Operation]],
]:
    """Make an RPC that returns an Operation out of the function that does its work.

    The RPC checks the request, stores it durably and returns; the function runs
    afterwards, here or in another process, more than once if it is interrupted.
    Response and metadata types are those of the method's `operation_info`.

    Args:
        retry: Which failures are tried again, how often and when.
        timeout: How long the work may take from its first start, retries and the waits
            between them included; then it ends with DEADLINE_EXCEEDED.
        retention: How long the finished operation is kept.
        concurrency: How many of them one process runs at the same time.
        max_running: How many of them all processes on the store together run at the same
            time, as far as leases tell. Give all processes the same.
        max_pending: How many of them may wait for a worker; over it, starts are refused
            with RESOURCE_EXHAUSTED.
        validate: Checks a request before anything is stored: a function of the request,
            or of the servicer and the request. It raises InvalidArgumentError or
            ServiceError, which the caller receives.
        exclusive: Returns the key of the resource that the work needs for itself; while
            an operation with the same key is not done, others are refused with ABORTED.
            Empty for none.
        target: Returns the resource that the metadata names as target. By default it is
            the request's `name`, or its `parent`.

    Of the request these fields have a meaning if it has them: `parent` (names the
    operation `{parent}/operations/{id}`), `request_id` (makes the start idempotent,
    AIP-155) and `validate_only` (only checks, AIP-163).
    """
    if _misplaced:
        raise ConfigurationError("write @outlast.long_running(), with parentheses")

    def decorate(
        handler: Callable[[S, Req, OperationContext[M]], Awaitable[Resp]],
    ) -> Callable[[S, Req, Any], Awaitable[operations_pb2.Operation]]:
        if not inspect.iscoroutinefunction(handler):
            raise ConfigurationError(f"{_where(handler)} must be an async def")

        @functools.wraps(handler)
        async def start(self: S, request: Req, context: Any) -> operations_pb2.Operation:
            return await _start_of(self, handler.__name__)(request, context)

        options = Options(
            handler=handler,
            retry=RetryPolicy() if retry is None else retry,
            timeout=timeout,
            retention=retention,
            concurrency=concurrency,
            max_running=max_running,
            max_pending=max_pending,
            validate=validate,
            exclusive=exclusive,
            target=target,
        )
        _check(options)
        setattr(start, _OPTIONS, options)
        return start

    return decorate


def _where(handler: Callable[..., Any]) -> str:
    """Return the name of a handler for a message about it."""
    return f"{handler.__module__}.{handler.__qualname__}"


def _check(options: Options) -> None:
    """Raise ConfigurationError, which names the handler, for options that cannot be."""
    where = _where(options.handler)
    if not takes(options.handler, 3):
        raise ConfigurationError(f"{where} must take self, the request and the OperationContext")
    check_limits(
        where,
        options.retry,
        options.timeout,
        options.retention,
        concurrency=options.concurrency,
        max_running=options.max_running,
        max_pending=options.max_pending,
    )
    for name in ("validate", "exclusive", "target"):
        require_function(f"{where}: {name}", getattr(options, name))
    if options.validate and not (takes(options.validate, 1) or takes(options.validate, 2)):
        raise ConfigurationError(
            f"{where}: validate must take the request, or the servicer and the request"
        )
    for name in ("exclusive", "target"):
        function = getattr(options, name)
        if function and not takes(function, 1):
            raise ConfigurationError(f"{where}: {name} must take the request")


def takes(function: Callable[..., Any], count: int) -> bool:
    """Whether a function can be called with so many arguments, as far as can be told."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # a builtin says nothing
        return True
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def decorated(servicer: object) -> Sequence[str]:
    """Return the names of the methods of a servicer that are decorated."""
    return [name for name in dir(type(servicer)) if options_of(servicer, name) is not None]


def options_of(servicer: object, method: str) -> Options | None:
    """Return what a servicer's method was decorated with, None if it was not."""
    options: Options | None = getattr(getattr(type(servicer), method, None), _OPTIONS, None)
    return options


def bind(servicer: object, starts: dict[str, Start]) -> None:
    """Tell a servicer's decorated methods how to start operations."""
    setattr(servicer, _STARTS, starts)


def _start_of(servicer: object, method: str) -> Start:
    starts: dict[str, Start] = getattr(servicer, _STARTS, {})
    try:
        return starts[method]
    except KeyError:
        raise ConfigurationError(
            f"{type(servicer).__name__}.{method} is not bound to operations: "
            "hand the servicer to outlast.Server or outlast.Operations"
        ) from None
