"""The tasks that a handler starts: they end with its attempt."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast
from weakref import WeakSet

_log = logging.getLogger(__name__)

_SHOWN = 3

Task = asyncio.Future[Any]
Factory = Callable[..., Task]

_children: ContextVar["WeakSet[Task] | None"] = ContextVar("outlast_children", default=None)
"""What the handler in whose context this is has started, and what that has started."""


def watch_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Have a loop note in which attempt its tasks are started. Idempotent.

    What makes its tasks so far goes on to make them.
    """
    inner = loop.get_task_factory()
    if not isinstance(inner, _Noting):
        loop.set_task_factory(_Noting(cast("Factory | None", inner)))


class _Noting:
    """Makes tasks, and notes those of attempts."""

    def __init__(self, inner: Factory | None) -> None:
        self._make = inner or _make

    def __call__(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        task = self._make(loop, coroutine, **options)
        context = options.get("context")
        children = _children.get() if context is None else context.get(_children)
        if children is not None:
            children.add(task)
        return task


def _make(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Task:
    return asyncio.Task(coroutine, loop=loop, **options)


@contextmanager
def children_of(name: str) -> Iterator[None]:
    """Cancel in the end what an attempt of the named operation has started and left running.

    What was started with a context of its own, `context=contextvars.Context()`, belongs
    to nobody.
    """
    children: WeakSet[Task] = WeakSet()
    token = _children.set(children)
    try:
        yield
    finally:
        _children.reset(token)
        if children:
            _cancel(name, [child for child in children if not child.done()])


def _cancel(name: str, children: list[Task]) -> None:
    """Cancel tasks, and complain of those that the handler has not cancelled itself."""
    left = [child for child in children if not _is_cancelling(child)]
    if not left:
        return
    shown = ", ".join(sorted({_described(child) for child in left})[:_SHOWN])
    _log.warning(
        "the handler of operation %s left %d tasks running, which are cancelled now: %s",
        *(name, len(left), shown),
    )
    for child in left:
        child.cancel("the attempt that this task was started in is over")


def _is_cancelling(child: Task) -> bool:
    return isinstance(child, asyncio.Task) and child.cancelling() > 0


def _described(child: Task) -> str:
    coroutine = child.get_coro() if isinstance(child, asyncio.Task) else child
    return getattr(coroutine, "__qualname__", type(child).__name__)
