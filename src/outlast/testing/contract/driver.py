"""What the parts of the contract have in common: fixtures, and a terse way to use a store."""

from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from itertools import count
from typing import Any

import pytest

from outlast.domain.listing import ListQuery
from outlast.domain.names import operation_name
from outlast.domain.operation import Claim, Operation, State
from outlast.domain.status import Code, Payload, Status
from outlast.domain.transitions import (
    Cancelled,
    Failed,
    Outcome,
    Released,
    Retry,
    Succeeded,
)
from outlast.ports import Inserted, OperationStore
from outlast.testing.clock import ManualClock

METHOD = "example.v1.Books/Print"
OTHER_METHOD = "example.v1.Books/Bind"
LEASE = timedelta(seconds=30)
ERROR = Status(Code.UNAVAILABLE, "the press is jammed", (Payload("example.v1.Jam", b"\x00\xff"),))
RESPONSE = Payload("example.v1.Book", bytes(range(256)))

ENDINGS: Mapping[str, Outcome] = {
    "succeeded": Succeeded(RESPONSE),
    "failed": Failed(ERROR),
    "dead letter": Failed(ERROR, dead_letter=True),
    "cancelled": Cancelled(),
}
"""The outcomes that end an operation."""

PAUSES: Mapping[str, Outcome] = {
    "retry": Retry(ERROR, timedelta(seconds=5)),
    "released": Released(),
}
"""The outcomes after which another attempt follows, unless the attempts are used up."""


def cases(outcomes: Mapping[str, Outcome | None]) -> list[pytest.ParameterSet]:
    """Return outcomes as the cases of a parametrized test."""
    return [pytest.param(outcome, id=name) for name, outcome in outcomes.items()]


class Driver:
    """Uses a store the way an engine does, with everything that a test leaves out filled in."""

    def __init__(self, store: OperationStore, clock: ManualClock) -> None:
        self.store = store
        self.clock = clock
        self._numbers = count(1)

    def new(self, **fields: Any) -> Operation:
        """Return a new operation that is due now."""
        now = self.clock.now()
        parent = fields.get("parent", "")
        defaults: dict[str, Any] = {
            "name": operation_name(parent, f"op-{next(self._numbers):04}"),
            "parent": "",
            "method": METHOD,
            "create_time": now,
            "update_time": now,
            "ready_time": now,
            "max_attempts": 3,
            "retention": timedelta(hours=1),
        }
        return Operation(**(defaults | fields))

    async def try_insert(
        self,
        operation: Operation | None = None,
        *,
        max_pending: int | None = None,
        max_pending_in_method: int | None = None,
        **fields: Any,
    ) -> Inserted:
        """Insert an operation and return what became of that."""
        operation = operation or self.new(**fields)
        request = Payload("example.v1.Request", operation.name.encode())
        return await self.store.insert(
            operation,
            request,
            max_pending=max_pending,
            max_pending_in_method=max_pending_in_method,
        )

    async def insert(self, **fields: Any) -> Operation:
        """Insert an operation that nothing speaks against."""
        inserted = await self.try_insert(**fields)
        assert inserted.created
        return inserted.operation

    async def claim(
        self,
        worker: str = "worker-1",
        *,
        methods: tuple[str, ...] = (METHOD,),
        limit: int = 100,
        lease: timedelta = LEASE,
    ) -> list[Claim]:
        """Claim as much as may be had of some methods."""
        claims = await self.store.claim(worker, dict.fromkeys(methods, limit), limit, lease)
        return list(claims.claims)

    async def claim_one(self, worker: str = "worker-1", *, lease: timedelta = LEASE) -> Claim:
        """Claim the only operation that is ready."""
        (claim,) = await self.claim(worker, methods=(METHOD, OTHER_METHOD), lease=lease)
        return claim

    async def start(self, worker: str = "worker-1", **fields: Any) -> Claim:
        """Insert an operation and claim it; nothing else may be ready."""
        operation = await self.insert(**fields)
        claim = await self.claim_one(worker)
        assert claim.operation.name == operation.name
        return claim

    async def run(self, outcome: Outcome, **fields: Any) -> Operation:
        """Insert an operation, claim it and finish it; nothing else may be ready."""
        claim = await self.start(**fields)
        return await self.store.finish(claim.lease, outcome)

    async def lose_lease(self, lease: timedelta = LEASE) -> None:
        """Let so much time pass that a lease runs out."""
        await self.clock.advance(lease.total_seconds())

    async def names(self, parent: str | None = "", **query: Any) -> list[str]:
        """Return the names that a list has, in its order."""
        page = await self.store.list_page(ListQuery(parent, **({"limit": 1000} | query)))
        return [operation.name for operation in page]

    async def states(self, *names: str) -> list[State]:
        """Return the states of some operations."""
        return [(await self.store.get(name)).state for name in names]


class ContractFixtures:
    """The fixtures of the contract: a store's test gives `store`, and the rest if it must."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        """Return the clock that the store goes by."""
        return ManualClock()

    @pytest.fixture
    def store(self, clock: ManualClock) -> AsyncIterator[OperationStore]:
        """Yield an empty store that goes by `clock`."""
        raise NotImplementedError

    @pytest.fixture
    async def other(self, store: OperationStore) -> OperationStore:
        """Return another client of the same operations; `store` itself if there is only one."""
        return store

    @pytest.fixture
    async def driver(self, store: OperationStore, clock: ManualClock) -> Driver:
        """Return a terse way to use `store`."""
        return Driver(store, clock)
