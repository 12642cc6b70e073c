"""The use cases behind the RPCs."""

import asyncio
from datetime import timedelta

import pytest

from outlast.domain.errors import (
    ExclusiveConflictError,
    OperationNotFoundError,
    PayloadTooLargeError,
    QueueFullError,
    RequestIdReusedError,
    StoreUnavailableError,
)
from outlast.domain.listing import ListQuery
from outlast.domain.operation import State
from outlast.domain.status import Payload
from outlast.domain.transitions import Succeeded
from outlast.engine.manager import StartRequest, approximate_size
from outlast.engine.retry import RetryPolicy
from outlast.testing.faults import ANSWER_LOST, AWAY, Fault, Moment


async def manager_of(world, **settings):
    return (await world.engine(execute=False, **settings)).manager


def start_of(world, handler, value=b"", **fields):
    method = world.method(
        handler,
        retry=RetryPolicy(max_attempts=7),
        timeout=timedelta(minutes=1),
        retention=timedelta(hours=1),
    )
    return StartRequest(
        method=method, request=Payload("example.v1.Request", value), digest=value, **fields
    )


async def names(manager, limit, matches=None, after=None):
    page = await manager.list_page(ListQuery("", limit, after), matches)
    return [operation.name for operation in page.operations], page.next


async def follow(manager, limit, matches=None):
    pages, after = [], None
    while True:
        page, after = await names(manager, limit, matches, after)
        pages.append(page)
        if after is None:
            return pages


async def test_a_start_is_stored_with_everything_its_method_says(world, handler):
    manager = await manager_of(world)
    start = start_of(world, handler, parent="shelves/1", target="books/2", principal="ada")
    operation = await manager.start(start)
    assert operation == await world.get(operation.name)
    assert operation.name.startswith("shelves/1/operations/")
    assert operation.state is State.PENDING
    assert operation.create_time == operation.ready_time == world.clock.now()
    assert (operation.max_attempts, operation.timeout) == (7, timedelta(minutes=1))
    assert operation.retention == timedelta(hours=1)
    assert (operation.target, operation.principal) == ("books/2", "ada")
    assert operation.metadata == Payload("example.v1.Metadata")


async def test_every_start_has_a_name_of_its_own(world, handler):
    manager = await manager_of(world)
    started = [await manager.start(start_of(world, handler)) for _ in range(100)]
    assert len({operation.name for operation in started}) == 100


async def test_a_request_over_the_limit_is_refused_and_not_stored(world, handler):
    manager = await manager_of(world, max_request_bytes=10)
    await manager.start(start_of(world, handler, b"x" * 10))
    with pytest.raises(PayloadTooLargeError):
        await manager.start(start_of(world, handler, b"x" * 11))
    assert len((await names(manager, 10))[0]) == 1


async def test_a_start_over_the_queue_limit_is_refused(world, handler):
    manager = await manager_of(world, max_pending=2)
    for _ in range(2):
        await manager.start(start_of(world, handler))
    with pytest.raises(QueueFullError):
        await manager.start(start_of(world, handler))


async def test_the_same_request_id_starts_one_operation(world, handler):
    manager = await manager_of(world)
    start = start_of(world, handler, b"1", request_id="id")
    started = await asyncio.gather(*[manager.start(start) for _ in range(10)])
    assert len({operation.name for operation in started}) == 1
    with pytest.raises(RequestIdReusedError):
        await manager.start(start_of(world, handler, b"2", request_id="id"))


async def test_a_parallel_start_on_the_same_resource_is_refused(world, handler):
    manager = await manager_of(world)
    first = await manager.start(start_of(world, handler, exclusive_key="books/1"))
    with pytest.raises(ExclusiveConflictError, match=first.name):
        await manager.start(start_of(world, handler, exclusive_key="books/1"))


@pytest.mark.parametrize("fault", [AWAY, ANSWER_LOST], ids=["away", "answer lost"])
async def test_a_start_during_an_outage_happens_once(world, handler, fault):
    manager = await manager_of(world, max_pending=1)
    world.store.inject(fault, "insert", times=3)
    start = start_of(world, handler, exclusive_key="books/1")
    operation = await world.in_time(manager.start(start), 5)
    assert (await names(manager, 10))[0] == [operation.name]


@pytest.mark.parametrize("call", ["get", "cancel", "delete", "attempts"])
@pytest.mark.parametrize("fault", [AWAY, ANSWER_LOST], ids=["away", "answer lost"])
async def test_a_moment_of_outage_is_absorbed(world, call, fault):
    manager = await manager_of(world)
    name = await world.insert()
    world.store.inject(fault, times=3)
    await world.in_time(getattr(manager, call)(name), 5)


@pytest.mark.parametrize(
    "call", ["start", "get", "cancel", "delete", "attempts", "wait", "list_page", "stats"]
)
@pytest.mark.parametrize(
    "fault",
    [Fault(delay_before=3600), Fault(delay_before=1.5, fails=Moment.BEFORE)],
    ids=["silent", "slow"],
)
async def test_a_store_that_is_slow_to_answer_takes_no_more_than_the_patience(
    world, handler, call, fault
):
    manager = await manager_of(world)
    name = await world.insert()
    arguments = {
        "start": (start_of(world, handler), 2),
        "wait": (name, 2, 2),
        "list_page": (ListQuery("", 1), None, 2),
        "stats": (2,),
    }
    world.store.inject(fault)
    task = asyncio.create_task(getattr(manager, call)(*arguments.get(call, (name, 2))))
    await world.clock.advance(1.9)
    assert not task.done()
    await world.clock.advance(0.1)
    with pytest.raises(StoreUnavailableError):
        task.result()


async def test_all_reads_of_a_list_share_its_patience(world):
    manager = await manager_of(world)
    for _ in range(200):
        await world.insert()
    world.store.inject(Fault(delay_before=1))
    task = asyncio.create_task(manager.list_page(ListQuery("", 200), patience=2.5))
    await world.clock.advance(2.5)
    with pytest.raises(StoreUnavailableError):
        task.result()


async def test_a_wait_leaves_time_to_read_the_latest_state(world):
    manager = await manager_of(world)
    name = await world.insert()
    task = asyncio.create_task(manager.wait(name, None, 10))
    await world.clock.advance(5)
    world.store.inject(Fault(delay_before=0.09))
    await world.clock.advance(4.8)
    assert not task.done()
    assert (await world.in_time(task, 0.2)).name == name


@pytest.mark.parametrize("call", ["get", "cancel", "delete", "attempts", "wait"])
async def test_an_outage_is_told_when_the_patience_is_over(world, call):
    manager = await manager_of(world)
    name = await world.insert()
    world.store.inject(AWAY)
    arguments = (name, 2, 2) if call == "wait" else (name, 2)
    task = asyncio.create_task(getattr(manager, call)(*arguments))
    await world.clock.advance(1.9)
    assert not task.done()
    await world.clock.advance(0.2)
    with pytest.raises(StoreUnavailableError):
        task.result()


async def test_the_setting_bounds_the_patience(world):
    manager = await manager_of(world, store_patience=timedelta(seconds=3))
    world.store.inject(AWAY)
    calls = [asyncio.create_task(manager.stats(patience)) for patience in (None, 10**9)]
    await world.clock.advance(3.1)
    for call in calls:
        with pytest.raises(StoreUnavailableError):
            call.result()


@pytest.mark.parametrize("call", ["get", "cancel", "delete", "attempts"])
async def test_what_is_not_there_is_told_at_once(world, call):
    manager = await manager_of(world)
    with pytest.raises(OperationNotFoundError):
        await getattr(manager, call)("operations/none")


async def test_what_was_deleted_before_is_told_at_once(world):
    manager = await manager_of(world)
    name = await world.insert()
    await manager.delete(name)
    with pytest.raises(OperationNotFoundError):
        await manager.delete(name)


async def test_stats_tell_how_much_work_there_is(world):
    manager = await manager_of(world)
    await world.insert()
    (stats,) = await manager.stats()
    assert (stats.method, stats.ready) == ("example.v1.Books/Print", 1)


@pytest.mark.parametrize("total", [0, 1, 9, 10, 11, 63, 64, 65, 128, 130])
async def test_the_last_page_and_only_the_last_has_no_cursor(world, total):
    manager = await manager_of(world)
    expected = sorted([await world.insert() for _ in range(total)])
    pages = await follow(manager, 10)
    assert [name for page in pages for name in page] == expected
    assert len(pages) == max(1, -(-total // 10))


async def test_a_filter_gives_full_pages_of_what_matches(world):
    manager = await manager_of(world)
    all_names = sorted([await world.insert() for _ in range(300)])
    wanted = all_names[::7]
    pages = await follow(manager, 10, lambda operation: operation.name in wanted)
    assert [name for page in pages for name in page] == wanted
    assert [len(page) for page in pages] == [10, 10, 10, 10, 3]


async def test_a_filter_that_matches_nothing_gives_one_empty_page(world):
    manager = await manager_of(world)
    for _ in range(100):
        await world.insert()
    assert await follow(manager, 10, lambda _: False) == [[]]


@pytest.mark.parametrize("max_scanned", [1, 10, 64, 100])
async def test_a_call_looks_at_no_more_records_than_the_limit(world, max_scanned):
    manager = await manager_of(world, max_scanned=max_scanned)
    all_names = sorted([await world.insert() for _ in range(200)])
    looked_at = []

    def is_last(operation):
        looked_at.append(operation.name)
        return operation.name == all_names[-1]

    page, after = await names(manager, 10, is_last)
    assert page == []
    assert after is not None
    assert looked_at == all_names[:max_scanned]
    looked_at.clear()
    pages = await follow(manager, 10, is_last)
    assert [name for page in pages for name in page] == [all_names[-1]]
    assert looked_at == all_names


async def test_no_record_is_looked_at_twice_but_the_first_of_a_page(world):
    manager = await manager_of(world)
    all_names = sorted([await world.insert() for _ in range(200)])
    looked_at = []

    def is_rare(operation):
        looked_at.append(operation.name)
        return operation.name in {all_names[0], all_names[150]}

    await follow(manager, 1, is_rare)
    assert len(looked_at) == 201


async def test_a_page_ends_before_it_has_too_many_bytes(world):
    manager = await manager_of(world, max_page_bytes=100_000, max_response_bytes=40_000)
    for _ in range(10):
        await world.insert()
        claim = await world.take()
        await world.inner.finish(claim.lease, Succeeded(Payload("t", b"x" * 30_000)))
    pages = await follow(manager, 50)
    assert [len(page) for page in pages] == [3, 3, 3, 1]
    for page in pages:
        sizes = [approximate_size(await world.get(name)) for name in page]
        assert sum(sizes) <= 100_000


async def test_a_record_that_is_larger_than_a_page_comes_alone(world):
    manager = await manager_of(world, max_page_bytes=1000)
    for _ in range(3):
        await world.insert()
    assert [len(page) for page in await follow(manager, 50)] == [1, 1, 1]


async def test_a_list_outlasts_a_moment_of_outage(world):
    manager = await manager_of(world)
    for _ in range(100):
        await world.insert()
    world.store.inject(AWAY, "list_page", times=2)
    page = await world.in_time(manager.list_page(ListQuery("", 100)), 5)
    assert len(page.operations) == 100
