"""What this process runs."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from enum import Enum, auto
from itertools import chain

from outlast.domain.operation import Claim
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
        self,
        claim: Claim,
        method: Method,
        context: ExecutionContext,
        on_stop: Callable[["Running"], None],
        *,
        lease_until: float,
        trial_until: float,
    ) -> None:
        self.claim = claim
        self.lease = claim.lease
        """The lease that every write for it carries."""
        self.method = method
        self.context = context
        self.lease_until = lease_until
        self._trial_until = trial_until
        """Until when the lease has to hold for the trial to be over."""
        self._on_stop = on_stop
        self.stop_reason: StopReason | None = None
        self.began = False
        """The handler has been called."""
        self.settled = False
        """The handler's part is over; what is left is to write the outcome down."""
        self.abandoned = False
        """The handler did not stop when it had to; whatever it does no longer counts."""
        self.refused = False
        """A write of it was refused: its lease is another's."""
        self.task: asyncio.Task[None] | None = None
        self.timers: list[TimerHandle] = []

    @property
    def lease_until(self) -> float:
        """Until when the lease holds, in monotonic seconds; no later than in the store."""
        return self.context.lease_until

    @lease_until.setter
    def lease_until(self, moment: float) -> None:
        self.context.lease_until = moment

    @property
    def lease_lost(self) -> bool:
        """Whether nothing may be written for it any more."""
        return self.stop_reason is StopReason.LEASE_LOST

    @property
    def keeps_lease(self) -> bool:
        """Whether the lease is still needed."""
        return not self.abandoned and not self.lease_lost

    @property
    def on_trial(self) -> bool:
        """Whether its attempt counts should this process die now."""
        return self.keeps_lease and self.lease_until < self._trial_until

    def stop(self, reason: StopReason) -> bool:
        """Cancel the handler; return False if it has ended or was told to stop before.

        A lost lease outweighs every other reason: nothing may be written any more.
        """
        if self.settled or self.task is None:
            return False
        first = self.stop_reason is None
        self.context.cancel_requested |= reason is StopReason.CANCEL
        if first or reason is StopReason.LEASE_LOST:
            self.stop_reason = reason
            self._on_stop(self)
        # A task that has not begun would end without a trace; it looks for itself.
        if first and self.began:
            self.task.cancel()
        return first

    def end_timers(self) -> None:
        """Cancel what was due later for this operation."""
        for timer in self.timers:
            timer.cancel()
        self.timers.clear()


class Workload:
    """Everything that runs in this process, and how much more may."""

    def __init__(self, methods: Mapping[str, Method], concurrency: int) -> None:
        self.idle = asyncio.Event()
        """Set while nothing runs; threads that attempts have left behind do not count."""
        self.idle.set()
        self._methods = methods
        self._concurrency = concurrency
        self._running: dict[Running, None] = {}
        self._left: dict[Running, None] = {}
        """What has ended but for its threads, which keep its slot."""
        self._by_name: dict[str, Running] = {}
        self._in_method: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return how many slots are taken, also by what has left threads behind."""
        return len(self._running) + len(self._left)

    def __iter__(self) -> Iterator[Running]:
        """Iterate over what runs now, whatever begins or ends meanwhile."""
        return iter(tuple(self._running))

    @property
    def full(self) -> bool:
        """Whether nothing more may run, of any method."""
        return len(self) >= self._concurrency

    @property
    def on_trial(self) -> bool:
        """Whether a suspect is on trial here; then another one must wait."""
        return any(running.on_trial for running in self._running)

    def abandoned(self, method: Method | None = None) -> int:
        """Return how many slots, of a method or of all, are held by what does not stop."""
        held = chain(self._running, self._left)
        return sum(it.abandoned and method in (None, it.method) for it in held)

    def named(self, name: str) -> Running | None:
        """Return the latest attempt of an operation that runs here."""
        return self._by_name.get(name)

    def free_slots(self) -> Mapping[str, int]:
        """Return how many more operations of each method may run, for those that may."""
        free = self._concurrency - len(self)
        slots: dict[str, int] = {}
        for name, method in self._methods.items():
            count = free
            if method.concurrency is not None:
                count = min(free, method.concurrency - self._in_method[name])
            if count > 0:
                slots[name] = count
        return slots

    def add(self, running: Running) -> None:
        """Take a slot.

        An earlier attempt of the same operation may still hold another one: its lease
        was lost, and its handler has not stopped yet.
        """
        self._running[running] = None
        self._by_name[running.lease.name] = running
        self._in_method[running.method.name] += 1
        self.idle.clear()

    def end(self, running: Running) -> None:
        """Forget what has ended, but for its slot."""
        del self._running[running]
        self._left[running] = None
        if self._by_name.get(running.lease.name) is running:
            del self._by_name[running.lease.name]
        if not self._running:
            self.idle.set()

    def free_slot(self, running: Running) -> None:
        """Free the slot of what has ended."""
        del self._left[running]
        self._in_method[running.method.name] -= 1
