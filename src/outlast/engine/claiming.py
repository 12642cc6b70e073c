"""Claims what is ready, up to the free slots."""

import asyncio
import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping

from outlast.domain.errors import StoreUnavailableError
from outlast.domain.operation import Claim, State
from outlast.engine.leases import LeaseKeeper
from outlast.engine.methods import Method
from outlast.engine.running import Workload
from outlast.engine.settings import EngineSettings
from outlast.outages import Outage
from outlast.ports import Change, Changes, Claims, Clock, OperationStore

_log = logging.getLogger(__name__)

_RETRY_PAUSE_SECONDS = 0.25
_CONTENTION_SECONDS = 0.005
"""After how long a claim is made again that met another worker's; doubled each time."""
_MAX_CONTENTIONS = 10


class Claimer:
    """A loop that asks the store for work when there may be some, and room for it.

    It is woken by hints, by slots that become free and by what is due, and polls for
    what it was not told of.
    """

    def __init__(
        self,
        store: OperationStore,
        clock: Clock,
        methods: Mapping[str, Method],
        settings: EngineSettings,
        *,
        worker: str,
        workload: Workload,
        leases: LeaseKeeper,
        chance: random.Random,
    ) -> None:
        self.stopping = False
        """Whether nothing more is to be claimed."""
        self._store = store
        self._clock = clock
        self._methods = methods
        self._settings = settings
        self._worker = worker
        self._workload = workload
        self._leases = leases
        self._chance = chance
        self._wake = asyncio.Event()
        self._more = False
        """Whether a slot that becomes free may have something to run."""
        self._hint_missed = False
        """Whether a hint came for what a claim under way may be about to give."""
        self._limits: dict[str, int] = {}
        self._held_back: frozenset[str] = frozenset()
        """Methods of which as many run on all workers as may, as the latest claim was told."""
        self._left: set[str] = set()
        """Those of which one has ended while a claim was under way."""
        self._contentions = 0
        """How many claims in a row met one of another worker."""
        self._outage = Outage(
            _log, clock.monotonic, "no work can be claimed", "work can be claimed again"
        )

    async def run(self, launch: Callable[[Claim, float], None]) -> None:
        """Claim until told to stop; hand on each claim with when it was asked for."""
        for name, method in self._methods.items():
            if method.max_running is not None:
                self._limits[name] = method.max_running
        while not self.stopping:
            self._wake.clear()
            await self._leases.renew_after_jump()
            pause = await self._claim(launch)
            timer = self._clock.call_later(pause, self._wake.set)
            await self._wake.wait()
            timer.cancel()

    def stop(self) -> None:
        """Claim nothing more, once a claim under way is over."""
        self.stopping = True
        self._wake.set()

    def on_changes(self, changes: Changes) -> None:
        """Take a hint of what may be ready, or of what may concern a claim under way."""
        if changes is None:
            self._wake.set()
            self._hint_missed = True
            return
        for change in changes:
            if change.method in self._held_back:
                if _had_begun(change):
                    self._wake.set()
            elif change.state is State.PENDING:
                if change.method in self._methods:
                    self._wake.set()
            elif change.state.done and change.method in self._limits:
                self._left.add(change.method)
            if change.cancel_requested and self._workload.named(change.name) is None:
                self._hint_missed = True

    def on_slot_freed(self, *, after_trial: bool) -> None:
        """Look for more, if there may be some that had to wait for this."""
        if self._more or after_trial:
            self._wake.set()

    async def _claim(self, launch: Callable[[Claim, float], None]) -> float:
        """Claim up to the free slots; return for how long there is nothing to claim."""
        slots = self._workload.free_slots()
        poll = self._settings.poll_interval.total_seconds() * self._chance.uniform(0.5, 1)
        if not slots or self._leases.failing:
            self._more = True
            return poll
        free = self._settings.concurrency - len(self._workload)
        suspects = 0 if self._workload.on_trial else 1
        asked_at = self._clock.monotonic()
        self._hint_missed = False
        self._held_back = frozenset()
        self._left.clear()
        try:
            claims = await self._store.claim(
                self._worker,
                slots,
                free,
                self._settings.lease,
                suspects=suspects,
                distrust=self._leases.distrust,
                max_running=self._limits,
            )
        except StoreUnavailableError as error:
            self._outage.on_failure(error)
            return _RETRY_PAUSE_SECONDS
        except Exception:  # noqa: BLE001  # a store's bug must not end the loop
            _log.exception("claiming failed, trying again")
            return poll
        self._outage.on_success()
        for claim in claims.claims:
            launch(claim, asked_at)
        if claims.claims and self._hint_missed:
            self._leases.renew_now()
        self._held_back = claims.held_back
        if self._left & self._held_back:
            self._wake.set()
        return min(self._pause_after(claims, slots, poll), self._pause_for(claims.contended))

    def _pause_after(self, claims: Claims, slots: Mapping[str, int], poll: float) -> float:
        taken = Counter(claim.operation.method for claim in claims.claims)
        self._more = any(taken[name] >= slots.get(name, 0) for name in self._methods)
        if claims.next_ready_time is None:
            return poll
        until_ready = (claims.next_ready_time - self._clock.now()).total_seconds()
        if until_ready > 0:
            return min(until_ready, poll)
        if claims.claims and not self._workload.full:
            self._wake.set()
        return min(_RETRY_PAUSE_SECONDS, poll)

    def _pause_for(self, contended: Collection[str]) -> float:
        """Return when to try again for what another worker's claim was in the way of."""
        if not contended:
            self._contentions = 0
            return math.inf
        longest = min(math.ldexp(_CONTENTION_SECONDS, self._contentions), _RETRY_PAUSE_SECONDS)
        self._contentions = min(self._contentions + 1, _MAX_CONTENTIONS)
        return longest * self._chance.uniform(0.5, 1)


def _had_begun(change: Change) -> bool:
    """Whether an operation may have run and does no longer."""
    began = change.record is None or change.record.lease_epoch > 0
    return began and change.state is not State.RUNNING
