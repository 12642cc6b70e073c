"""One operation that this process runs."""

import asyncio
from enum import Enum, auto

from outlast.domain.operation import Claim, Lease
from outlast.engine.context import ExecutionContext
from outlast.engine.methods import Method
from outlast.ports import TimerHandle


class StopReason(Enum):
    """Why a handler was told to stop."""

    CANCEL = auto()
    DEADLINE = auto()
    LEASE_LOST = auto()
    SHUTDOWN = auto()


class Running:
    """An operation in hand: its handler's task, and why that was told to stop."""

    def __init__(
        self, claim: Claim, method: Method, context: ExecutionContext, lease_until: float
    ) -> None:
        self.claim = claim
        self.method = method
        self.context = context
        self.lease_until = lease_until
        """Until when the lease holds, in monotonic seconds; no later than in the store."""
        self.stop_reason: StopReason | None = None
        self.settled = False
        """The handler's part is over; what is left is to write the outcome down."""
        self.abandoned = False
        """The handler did not stop when it had to; whatever it does no longer counts."""
        self.task: asyncio.Task[None] | None = None
        self.timers: list[TimerHandle] = []

    @property
    def lease(self) -> Lease:
        """The lease that every write for it carries."""
        return self.claim.lease

    def stop(self, reason: StopReason) -> bool:
        """Cancel the handler; return False if it has ended or was told to stop before.

        A lost lease outweighs every other reason: nothing may be written any more.
        """
        if self.settled or self.task is None:
            return False
        first = self.stop_reason is None
        if first or reason is StopReason.LEASE_LOST:
            self.stop_reason = reason
        self.context.cancel_requested |= reason is StopReason.CANCEL
        if first:
            self.task.cancel()
        return first

    def end_timers(self) -> None:
        """Cancel what was due later for this operation."""
        for timer in self.timers:
            timer.cancel()
        self.timers.clear()
