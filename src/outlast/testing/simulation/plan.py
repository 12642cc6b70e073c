"""What a seed decides: how many take part, by which settings, and how bad the weather is."""

import random
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Self

from outlast.engine.settings import EngineSettings


def chance_for(seed: int, purpose: str) -> random.Random:
    """Return the chance of one part of a simulation: no part disturbs another's."""
    return random.Random(f"{seed}/{purpose}")  # noqa: S311  # it has to be foreseeable


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What befalls the calls of one worker to the store, and the hints that it gets.

    What is no number of seconds is a probability.
    """

    slowest: float = 0.01
    """The longest that one way of a call takes."""
    slow: float = 0.2
    """How many ways take up to that; the others are quick."""
    fails_before: float = 0.0
    fails_after: float = 0.0
    late_renewals: float = 0.0
    """How many renewals take about as long as the lease lasts, or longer."""
    late_claims: float = 0.0
    late_writes: float = 0.0
    """How many other writes under a lease do."""
    crashes: float = 0.0
    """How many calls are the last thing that the worker does."""
    hint_lost: float = 0.0
    hint_slowest: float = 0.0
    hint_doubled: float = 0.0
    hint_bare: float = 0.0
    hint_vague: float = 0.0

    @classmethod
    def draw(cls, chance: random.Random) -> Self:
        """Draw the weather for one worker: each kind of fault is often absent."""
        pick = chance.choice
        return cls(
            slowest=pick([0.005, 0.05, 0.3, 1.0]),
            slow=pick([0.1, 0.5, 1.0]),
            fails_before=pick([0.0, 0.0, 0.02, 0.1]),
            fails_after=pick([0.0, 0.0, 0.02, 0.1]),
            late_renewals=pick([0.0, 0.0, 0.1, 0.4]),
            late_claims=pick([0.0, 0.0, 0.05]),
            late_writes=pick([0.0, 0.05, 0.15]),
            crashes=pick([0.0, 0.0, 0.005, 0.02]),
            hint_lost=pick([0.0, 0.0, 0.3, 1.0]),
            hint_slowest=pick([0.0, 0.0, 0.05, 1.0]),
            hint_doubled=pick([0.0, 0.3]),
            hint_bare=pick([0.0, 0.5]),
            hint_vague=pick([0.0, 0.0, 0.3]),
        )

    def subsided(self) -> Self:
        """Return the weather after the storm: hints stay as they are, calls succeed."""
        return replace(
            self,
            slowest=min(self.slowest, 0.05),
            fails_before=0.0,
            fails_after=0.0,
            late_renewals=0.0,
            late_claims=0.0,
            late_writes=0.0,
            crashes=0.0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The frame of one simulation."""

    workers: int
    clients: int
    actions: int
    """How many things each client does."""
    storm: float
    """For how many seconds there are faults."""
    disasters: float
    """How many seconds lie between two crashes, pauses, outages or restarts, on average."""
    narrow: int
    """How many operations of the narrow method one process runs."""
    scarce: int
    """How many operations of the scarce method all processes together run."""
    attempts: int
    timeout: float
    """How many seconds the operations of the brief method may take."""
    backoff: float
    retention: float
    settings: EngineSettings

    @classmethod
    def draw(cls, chance: random.Random) -> Self:
        """Draw a plan."""
        pick = chance.choice
        lease = pick([3.0, 6.0, 12.0])
        return cls(
            workers=pick([1, 2, 3, 3]),
            clients=pick([2, 4, 6]),
            actions=pick([5, 10, 15]),
            storm=pick([30.0, 60.0, 90.0]),
            disasters=pick([3.0, 6.0, 15.0]),
            narrow=pick([1, 2]),
            attempts=pick([2, 3, 5]),
            timeout=pick([5.0, 20.0]),
            backoff=pick([0.5, 2.0]),
            retention=pick([3600.0, 3600.0, 30.0]),
            settings=EngineSettings(
                concurrency=pick([1, 2, 4]),
                lease=timedelta(seconds=lease),
                poll_interval=timedelta(seconds=pick([0.5, 1.0, 3.0])),
                cancel_grace=timedelta(seconds=pick([0.5, 3.0])),
                max_wait=timedelta(seconds=40),
                waiter_poll_interval=timedelta(seconds=pick([8.0, 12.0])),
                store_patience=timedelta(seconds=pick([1.0, 5.0])),
                expire_interval=timedelta(seconds=10),
            ),
            scarce=pick([1, 1, 2]),
        )

    @property
    def lease(self) -> float:
        """The length of a lease in seconds."""
        return self.settings.lease.total_seconds()
