"""Runs one simulation: everything that happens in it follows from its seed."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from outlast.ports import Clock, OperationStore
from outlast.stores.memory import MemoryStore
from outlast.testing.simulation.history import History, InvariantError
from outlast.testing.simulation.loop import SimulatedLoop, StalledError
from outlast.testing.simulation.network import GoneError
from outlast.testing.simulation.plan import chance_for
from outlast.testing.simulation.world import Report, World

_ENGINE_LOG = "outlast.engine"


def simulate(
    seed: int, *, store_factory: Callable[[Clock], OperationStore] = MemoryStore
) -> Report:
    """Run the engine through what a seed decides; raise InvariantError if it fails.

    The error prints the seed and what happened. `store_factory` makes the store from
    its clock; see `SharedStore` for what it has to be.
    """
    loop = SimulatedLoop(chance_for(seed, "order"))
    world = World(seed, loop, store_factory)
    loop.set_exception_handler(lambda _, context: _fail(world.history, context))
    asyncio.set_event_loop(loop)
    with _heard(world.history):
        try:
            _run(world, loop)
            return world.report()
        finally:
            loop.bury(GoneError)
            asyncio.set_event_loop(None)
            loop.close()


def _run(world: World, loop: SimulatedLoop) -> None:
    history = world.history
    try:
        loop.run_until_complete(world.run())
    except StalledError as error:
        raise history.violation("nobody hangs", str(error)) from None
    except InvariantError:
        raise
    except Exception as error:
        raise history.violation("every exception is caught", repr(error)) from error
    for host, task in loop.tasks:
        if host is loop.outside and not task.done():
            raise history.violation("nobody hangs", f"{task.get_name()} does")
        if task.done() and task._log_traceback:
            detail = f"{task.get_name()}: {task.exception()!r}"
            raise history.violation("every exception is looked at", detail)


def _fail(history: History, context: dict[str, Any]) -> None:
    """End the run for what nobody has caught."""
    error = context.get("exception")
    if not isinstance(error, InvariantError):
        history.broken("every exception is caught", f"{context['message']}: {error!r}")


class _Ear(logging.Handler):
    """Writes what the engine logs into the trace."""

    def __init__(self, history: History) -> None:
        super().__init__(logging.WARNING)
        self._history = history

    def emit(self, record: logging.LogRecord) -> None:
        self._history.note("log", record.getMessage())


@contextmanager
def _heard(history: History) -> Iterator[None]:
    """Have the engine log into the trace and nowhere else."""
    logger, ear = logging.getLogger(_ENGINE_LOG), _Ear(history)
    before = logger.propagate, logger.level
    logger.addHandler(ear)
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(ear)
        logger.propagate, level = before
        logger.setLevel(level)
