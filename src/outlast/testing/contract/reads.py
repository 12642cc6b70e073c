"""What `get`, `get_many` and `list_page` promise."""

from datetime import timedelta
from itertools import product

import pytest

from outlast.domain.errors import OperationNotFoundError
from outlast.domain.listing import Conditions, Cursor, ListQuery
from outlast.domain.operation import Operation, Progress, State
from outlast.domain.status import Payload
from outlast.domain.transitions import Failed, Succeeded
from outlast.ports import OperationStore
from outlast.testing.clock import ManualClock
from outlast.testing.contract.driver import (
    ERROR,
    METHOD,
    OTHER_METHOD,
    RESPONSE,
    ContractFixtures,
    Driver,
)


class ReadContract(ContractFixtures):
    """Readers see what is visible, as it is now, and change nothing."""

    async def test_a_name_that_never_was_is_not_found(self, store: OperationStore) -> None:
        with pytest.raises(OperationNotFoundError) as caught:
            await store.get("operations/none")
        assert caught.value.name == "operations/none"

    async def test_get_many_returns_those_that_are_visible(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        expired = await driver.run(Succeeded(RESPONSE), retention=timedelta(minutes=1))
        running = (await driver.start()).operation
        hidden = (await driver.start()).operation
        await store.delete(hidden.name)
        await clock.advance(60)
        pending = await driver.insert()
        names = [expired.name, running.name, hidden.name, pending.name, "operations/none"]
        assert await store.get_many(names) == {running.name: running, pending.name: pending}

    async def test_get_many_of_no_names_is_empty(
        self, driver: Driver, store: OperationStore
    ) -> None:
        await driver.insert()
        assert await store.get_many([]) == {}

    async def test_get_many_takes_as_many_names_as_a_server_waits_for(
        self, driver: Driver, store: OperationStore
    ) -> None:
        operation = await driver.insert()
        names = [f"operations/none-{number}" for number in range(5000)]
        assert await store.get_many([*names, operation.name]) == {operation.name: operation}

    async def test_an_expired_operation_is_invisible_before_it_is_swept(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        name = (await driver.run(Succeeded(RESPONSE), retention=timedelta(minutes=1))).name
        await clock.advance(59.999999)
        assert (await store.get(name)).done
        await clock.advance(0.000001)
        with pytest.raises(OperationNotFoundError):
            await store.get(name)
        with pytest.raises(OperationNotFoundError):
            await store.request_cancel(name)
        with pytest.raises(OperationNotFoundError):
            await store.delete(name)
        with pytest.raises(OperationNotFoundError):
            await store.attempts(name)
        assert await driver.names() == []

    async def test_reading_changes_nothing(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        operation = (await driver.start()).operation
        await clock.advance(1)
        for _ in range(2):
            assert await store.get(operation.name) == operation
            assert await store.get_many([operation.name]) == {operation.name: operation}
            assert await store.list_page(ListQuery("", 10)) == [operation]
            await store.attempts(operation.name)
            await store.steps(operation.name)
            await store.stats()

    async def test_records_that_were_handed_in_or_out_never_change(
        self, driver: Driver, store: OperationStore
    ) -> None:
        handed_in = driver.new()
        seen = [handed_in, (await driver.try_insert(handed_in)).operation]
        seen.append(await store.get(handed_in.name))
        claim = await driver.claim_one()
        seen.append(claim.operation)
        snapshots = [dict(vars(it)) for it in seen]
        seen.append(await store.record_progress(claim.lease, Progress(1, 2), Payload("m", b"1")))
        snapshots.append(dict(vars(seen[-1])))
        await store.request_cancel(handed_in.name)
        await store.finish(claim.lease, Succeeded(RESPONSE))
        assert [dict(vars(it)) for it in seen] == snapshots

    def test_the_secret_is_32_bytes_and_shared(
        self, store: OperationStore, other: OperationStore
    ) -> None:
        assert len(store.secret) == 32
        assert store.secret == other.secret

    def test_the_durability_is_stated(self, store: OperationStore) -> None:
        assert store.durability


class ListContract(ContractFixtures):
    """Lists are ordered, exact, and stable while others write."""

    async def test_a_list_has_the_newest_first_and_ties_by_name(
        self, driver: Driver, clock: ManualClock
    ) -> None:
        for name in ("operations/b", "operations/a"):
            await driver.insert(name=name)
        await clock.advance(0.000001)
        for name in ("operations/z", "operations/Z", "operations/é", "operations/c"):
            await driver.insert(name=name)
        assert await driver.names() == [
            "operations/Z",
            "operations/c",
            "operations/z",
            "operations/é",
            "operations/a",
            "operations/b",
        ]

    async def test_a_list_has_the_records_as_they_are_now(
        self, driver: Driver, store: OperationStore, other: OperationStore
    ) -> None:
        done = await driver.run(Failed(ERROR, dead_letter=True))
        running = (await driver.start()).operation
        pending = await driver.insert(principal="ada", target="books/1")
        everything = sorted([done, running, pending], key=lambda it: it.name)
        assert await store.list_page(ListQuery("", 10)) == everything
        assert await other.list_page(ListQuery("", 10)) == everything

    @pytest.mark.parametrize("parent", ["", "a", "a/b", "ab", "A", "a%", "a_", "missing"])
    async def test_a_list_has_exactly_the_operations_of_its_parent(
        self, driver: Driver, parent: str
    ) -> None:
        parents = ["", "a", "a/b", "ab", "A", "a%", "a_"]
        names = {it: (await driver.insert(parent=it)).name for it in parents}
        assert await driver.names(parent) == ([names[parent]] if parent in names else [])

    async def test_a_list_can_be_one_principals(self, driver: Driver) -> None:
        names = {it: (await driver.insert(principal=it)).name for it in ("", "ada", "bob")}
        for principal, name in names.items():
            assert await driver.names(principal=principal) == [name]
        assert await driver.names(principal="eve") == []
        assert await driver.names(principal=None) == sorted(names.values())

    async def test_a_list_leaves_out_what_is_deleted(
        self, driver: Driver, store: OperationStore
    ) -> None:
        done = await driver.run(Succeeded(RESPONSE))
        running = (await driver.start()).operation
        pending = await driver.insert()
        kept = await driver.insert()
        for operation in (done, running, pending):
            await store.delete(operation.name)
        assert await driver.names() == [kept.name]

    async def test_a_list_can_ask_for_states(self, driver: Driver, store: OperationStore) -> None:
        await driver.run(Succeeded(RESPONSE))
        await driver.run(Failed(ERROR))
        await store.request_cancel((await driver.insert()).name)
        await driver.start()
        await driver.insert()
        for state in State:
            (name,) = await driver.names(conditions=Conditions(states=frozenset({state})))
            assert await driver.states(name) == [state]
        done = frozenset(state for state in State if state.done)
        assert len(await driver.names(conditions=Conditions(states=done))) == 3
        assert await driver.names(conditions=Conditions(states=frozenset())) == []

    async def test_a_list_can_ask_for_a_method(self, driver: Driver) -> None:
        for method in (METHOD, OTHER_METHOD):
            name = (await driver.insert(method=method)).name
            assert await driver.names(conditions=Conditions(method=method)) == [name]
        assert await driver.names(conditions=Conditions(method="example.v1.Books/P")) == []

    async def test_a_list_can_ask_for_dead_letters_or_for_none(self, driver: Driver) -> None:
        dead = await driver.run(Failed(ERROR, dead_letter=True))
        failed = await driver.run(Failed(ERROR))
        assert await driver.names(conditions=Conditions(dead_letter=True)) == [dead.name]
        assert await driver.names(conditions=Conditions(dead_letter=False)) == [failed.name]

    async def test_dead_letters_of_every_parent_are_listed_together(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        dead = Failed(ERROR, dead_letter=True)
        for name in ("a/operations/b", "operations/a", "a/b/operations/c"):
            await driver.run(dead, name=name, parent=name.rpartition("/operations/")[0])
        await clock.advance(1)
        await driver.run(dead, name="a/operations/d", parent="a", principal="ada")
        await driver.run(Failed(ERROR), parent="a")
        hidden = await driver.run(dead, parent="b")
        await store.delete(hidden.name)
        running = await driver.start(parent="b")
        await store.delete(running.operation.name)
        await store.finish(running.lease, dead)
        await driver.run(dead, parent="b", retention=timedelta(seconds=1))
        await clock.advance(1)
        wanted = ListQuery(None, 3, conditions=Conditions(dead_letter=True))
        names = [[it.name for it in page] for page in await _pages(store, wanted)]
        assert names == [
            ["a/operations/d", "a/b/operations/c", "a/operations/b"],
            ["operations/a"],
        ]
        conditions = Conditions(method=METHOD, dead_letter=True)
        assert await driver.names(None, conditions=conditions, principal="ada") == names[0][:1]
        conditions = Conditions(method=OTHER_METHOD, dead_letter=True)
        assert await driver.names(None, conditions=conditions) == []

    async def test_all_conditions_hold_together(self, driver: Driver) -> None:
        wanted = Conditions(frozenset({State.PENDING}), METHOD, dead_letter=False)
        names = [
            (await driver.insert(method=method, principal=principal)).name
            for method, principal in product((METHOD, OTHER_METHOD), ("ada", "bob"))
        ]
        assert await driver.names(conditions=wanted, principal="ada") == [names[0]]

    @pytest.mark.parametrize("limit", [1, 2, 3, 4, 7, 8, 100])
    async def test_following_the_cursors_meets_everything_once(
        self, driver: Driver, store: OperationStore, clock: ManualClock, limit: int
    ) -> None:
        for number in range(7):
            await driver.insert()
            if number % 3 == 0:
                await clock.advance(1)
        pages = await _pages(store, ListQuery("", limit))
        assert [it.name for page in pages for it in page] == await driver.names()
        assert all(len(page) == limit for page in pages[:-1])

    async def test_a_page_is_full_although_few_operations_fit(
        self, driver: Driver, store: OperationStore
    ) -> None:
        for number in range(200):
            await driver.insert(method=OTHER_METHOD if number % 50 else METHOD)
        page = await store.list_page(ListQuery("", 4, conditions=Conditions(method=METHOD)))
        assert len(page) == 4

    async def test_a_list_is_stable_under_inserts_deletes_and_changes(
        self, driver: Driver, store: OperationStore, clock: ManualClock
    ) -> None:
        names = [(await driver.insert()).name for _ in range(9)]
        first = await store.list_page(ListQuery("", 3))
        await clock.advance(1)
        await driver.insert()
        await store.delete(first[-1].name)
        await store.delete(names[4])
        await driver.claim(limit=2)
        rest = await _pages(store, ListQuery("", 3, after=Cursor.at(first[-1])))
        assert [it.name for it in first] == names[:3]
        assert [it.name for page in rest for it in page] == [names[3], *names[5:]]


async def _pages(store: OperationStore, query: ListQuery) -> list[list[Operation]]:
    """Follow the cursors to the end."""
    pages: list[list[Operation]] = []
    while page := list(await store.list_page(query)):
        pages.append(page)
        after = Cursor.at(page[-1])
        query = ListQuery(query.parent, query.limit, after, query.conditions, query.principal)
    return pages
