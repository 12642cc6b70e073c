"""What the feed of changes promises."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from outlast.domain.errors import LeaseLostError
from outlast.domain.operation import State
from outlast.domain.transitions import Failed, Outcome, Succeeded
from outlast.ports import Change, Changes, OperationStore
from outlast.testing.contract.driver import (
    ENDINGS,
    ERROR,
    PAUSES,
    RESPONSE,
    ContractFixtures,
    Driver,
    cases,
)

PATIENCE_SECONDS = 10
"""How long a hint may take in real time before it is taken to be lost."""


class Listener:
    """Keeps what it hears, and lets a test wait until it has heard something."""

    def __init__(self, store: OperationStore) -> None:
        self.heard: list[Change] = []
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self.unsubscribe = store.changes.subscribe(self._listen)

    def _listen(self, changes: Changes) -> None:
        assert asyncio.get_running_loop() is self._loop
        for change in changes or ():
            assert change.record is None or Change.of(change.record) == change
            self.heard.append(replace(change, record=None))
        self._news.set()

    async def hears(self, expected: Change) -> None:
        """Return when it has heard of a change."""
        expected = replace(expected, record=None)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while expected not in self.heard:
                self._news.clear()
                await self._news.wait()


class ChangesContract(ContractFixtures):
    """Every change of this store's users is heard of, when it is visible."""

    @pytest.fixture
    async def listener(self, store: OperationStore) -> AsyncIterator[Listener]:
        """Return what listens to the store's changes from the beginning."""
        listener = Listener(store)
        yield listener
        listener.unsubscribe()

    async def test_an_insert_is_heard_of(self, driver: Driver, listener: Listener) -> None:
        await listener.hears(Change.of(await driver.insert()))

    async def test_a_claim_is_heard_of(self, driver: Driver, listener: Listener) -> None:
        await listener.hears(Change.of((await driver.start()).operation))

    async def test_progress_is_heard_of(
        self, driver: Driver, store: OperationStore, listener: Listener
    ) -> None:
        claim = await driver.start()
        await listener.hears(Change.of(claim.operation))
        listener.heard.clear()
        after = await store.record_progress(claim.lease, None, RESPONSE)
        await listener.hears(Change.of(after))

    @pytest.mark.parametrize("outcome", cases({**ENDINGS, **PAUSES}))
    async def test_the_end_of_an_attempt_is_heard_of(
        self, driver: Driver, listener: Listener, outcome: Outcome
    ) -> None:
        claim = await driver.start()
        await listener.hears(Change.of(claim.operation))
        listener.heard.clear()
        await listener.hears(Change.of(await driver.store.finish(claim.lease, outcome)))

    async def test_an_end_by_reaping_is_heard_of(
        self, driver: Driver, store: OperationStore, listener: Listener
    ) -> None:
        name = (await driver.start()).operation.name
        await store.request_cancel(name)
        await driver.lose_lease()
        await store.reap(10)
        await listener.hears(Change.of(await store.get(name)))

    async def test_an_end_by_a_claim_is_heard_of(
        self, driver: Driver, store: OperationStore, listener: Listener
    ) -> None:
        name = (await driver.start(max_attempts=1)).operation.name
        await driver.lose_lease()
        await driver.claim("worker-2")
        await listener.hears(Change.of(await store.get(name)))

    async def test_a_request_to_stop_is_heard_of(
        self, driver: Driver, store: OperationStore, listener: Listener
    ) -> None:
        running = (await driver.start()).operation
        asked = await store.request_cancel(running.name)
        await listener.hears(Change.of(asked))
        assert Change.of(asked).cancel_requested
        pending = await driver.insert()
        await listener.hears(Change.of(await store.request_cancel(pending.name)))

    @pytest.mark.parametrize("state", [State.PENDING, State.RUNNING, State.SUCCEEDED])
    async def test_a_deletion_is_heard_of(
        self, driver: Driver, store: OperationStore, listener: Listener, state: State
    ) -> None:
        operation = await driver.insert()
        if state is not State.PENDING:
            claim = await driver.claim_one()
            if state is State.SUCCEEDED:
                await store.finish(claim.lease, Succeeded(RESPONSE))
        await store.delete(operation.name)
        await listener.hears(Change(operation.name, operation.method, state, deleted=True))

    async def test_a_change_of_another_client_is_heard_of_or_hinted_at(
        self, store: OperationStore, other: OperationStore, driver: Driver
    ) -> None:
        heard = asyncio.Event()
        unsubscribe = other.changes.subscribe(lambda _: heard.set())
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not heard.is_set():
                await driver.insert()
                await driver.clock.advance(1)
        unsubscribe()

    async def test_every_listener_hears_of_a_change(
        self, driver: Driver, store: OperationStore
    ) -> None:
        listeners = [Listener(store) for _ in range(3)]
        change = Change.of(await driver.insert())
        for listener in listeners:
            await listener.hears(change)
            listener.unsubscribe()

    async def test_who_has_unsubscribed_hears_nothing(
        self, driver: Driver, store: OperationStore, listener: Listener
    ) -> None:
        gone = Listener(store)
        gone.unsubscribe()
        await listener.hears(Change.of(await driver.insert()))
        assert gone.heard == []

    async def test_a_listener_may_unsubscribe_while_it_is_called(
        self, driver: Driver, store: OperationStore, listener: Listener
    ) -> None:
        calls: list[Changes] = []
        unsubscribe: list[Callable[[], None]] = []

        def once(changes: Changes) -> None:
            calls.append(changes)
            unsubscribe.pop()()

        unsubscribe.append(store.changes.subscribe(once))
        await listener.hears(Change.of(await driver.insert()))
        await listener.hears(Change.of(await driver.insert()))
        assert len(calls) == 1

    async def test_a_change_is_visible_when_it_is_heard_of(
        self, driver: Driver, store: OperationStore, listener: Listener
    ) -> None:
        claim = await driver.start()
        finishing = asyncio.create_task(store.finish(claim.lease, Succeeded(RESPONSE)))
        name = claim.operation.name
        await listener.hears(Change(name, claim.operation.method, State.SUCCEEDED))
        assert (await store.get(name)).done
        await finishing

    async def test_what_was_refused_is_not_heard_of(
        self, driver: Driver, store: OperationStore, listener: Listener
    ) -> None:
        claim = await driver.start(exclusive_key="k", timeout=timedelta(minutes=1))
        await store.finish(claim.lease, Succeeded(RESPONSE))
        with pytest.raises(LeaseLostError):
            await store.finish(claim.lease, Failed(ERROR))
        await listener.hears(Change.of(await driver.insert()))
        states = {it.state for it in listener.heard if it.name == claim.operation.name}
        assert State.FAILED not in states
