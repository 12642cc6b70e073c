"""Redriving all that a query finds."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from outlast.domain.errors import (
    ExclusiveConflictError,
    NotRedrivableError,
    OperationNotFoundError,
    QueueFullError,
)
from outlast.domain.listing import Cursor, ListQuery
from outlast.domain.operation import Operation
from outlast.domain.transitions import REDRIVABLE
from outlast.engine.manager import OperationManager


@dataclass(frozen=True, slots=True)
class Redriven:
    """What became of a page of operations, and where the next one begins if there may be one."""

    operations: Sequence[Operation]
    """The new ones."""
    skipped: int
    next: Cursor | None


async def redrive_page(
    manager: OperationManager,
    query: ListQuery,
    matches: Callable[[Operation], bool] | None = None,
    patience: float | None = None,
) -> Redriven:
    """Redrive what a page of a query has of failed and cancelled operations.

    Skipped is what has been redriven before, what is gone by now, and what needs a
    resource that is in use. When the queue is full, or that of a method, it ends there, and
    raises QueueFullError if it has done nothing. It may be called again at any time: nothing is
    redriven twice.
    """
    states = query.conditions.states
    wanted = REDRIVABLE if states is None else states & REDRIVABLE
    query = replace(query, conditions=replace(query.conditions, states=wanted))
    page = await manager.list_page(query, matches, patience)
    results = await asyncio.gather(
        *(_redrive(manager, operation.name, patience) for operation in page.operations)
    )
    redriven = [it for it in results if isinstance(it, Operation)]
    refused = next((it for it in results if isinstance(it, QueueFullError)), None)
    if refused is None:
        return Redriven(redriven, results.count(None), page.next)
    reached = results.index(refused)
    if reached:
        go_on = Cursor.at(page.operations[reached - 1])
    elif redriven:  # of methods that have room, behind the first of one that has none
        go_on = query.after or Cursor(page.operations[0].create_time, "")
    else:
        raise refused
    return Redriven(redriven, results[:reached].count(None), go_on)


async def _redrive(
    manager: OperationManager, name: str, patience: float | None
) -> Operation | QueueFullError | None:
    """Return the new operation, None if it is to be skipped, or that the queue is full."""
    try:
        return await manager.redrive_once(name, patience)
    except (ExclusiveConflictError, NotRedrivableError, OperationNotFoundError):
        return None
    except QueueFullError as error:
        return error
