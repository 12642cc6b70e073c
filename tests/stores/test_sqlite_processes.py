"""Several processes on one SQLite file."""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from outlast.domain.errors import (
    LeaseLostError,
    OperationNotFoundError,
    QueueFullError,
    StoreUnavailableError,
)
from outlast.domain.operation import Operation, Progress, State
from outlast.domain.status import Payload
from outlast.domain.transitions import Retry, Succeeded
from outlast.ports import Change, Changes
from outlast.stores.sqlite import SqliteStore
from outlast.stores.sqlite.store import CATCH_UP_SECONDS, OTHERS_POLL_SECONDS
from outlast.testing.clock import ManualClock
from outlast.testing.contract.driver import ERROR, LEASE, METHOD, RESPONSE, Driver


@pytest.fixture
async def stores(path: Path, clock: ManualClock) -> AsyncIterator[tuple[SqliteStore, SqliteStore]]:
    """Yield two stores that know no more of each other than two processes would."""
    async with (
        SqliteStore.open(path, clock=clock) as one,
        SqliteStore.open(path, clock=clock) as other,
    ):
        yield one, other


class Listener:
    """Remembers hints, and can be waited for while time passes."""

    def __init__(self, store: SqliteStore, clock: ManualClock) -> None:
        self.heard: list[Changes] = []
        self._clock = clock
        self._something = asyncio.Event()
        store.changes.subscribe(self._listen)

    def _listen(self, changes: Changes) -> None:
        self.heard.append(changes)
        self._something.set()

    async def next(self) -> Changes:
        while not self._something.is_set():
            await self._clock.advance(OTHERS_POLL_SECONDS)
        self._something.clear()
        return self.heard[-1]


# Hints.


async def test_what_another_process_does_is_told_by_name(
    stores: tuple[SqliteStore, SqliteStore], clock: ManualClock
) -> None:
    one, other = stores
    listener, driver = Listener(one, clock), Driver(other, clock)
    waiting, hidden = await driver.insert(), await driver.insert()
    assert await told(listener) == {hint(waiting), hint(hidden)}
    claim, hidden_claim = await driver.claim(limit=2)
    asked = await other.request_cancel(claim.operation.name)
    assert await told(listener) == {hint(asked)}
    await other.delete(hidden_claim.operation.name)
    assert await told(listener) == {replace(hint(hidden_claim.operation), deleted=True)}
    done = await other.finish(claim.lease, Succeeded(RESPONSE))
    assert await told(listener) == {hint(done)}


async def test_what_goes_on_in_another_process_is_not_told(
    stores: tuple[SqliteStore, SqliteStore], clock: ManualClock
) -> None:
    """Each would renew its leases when it hears that the other one did."""
    one, other = stores
    claim = await Driver(other, clock).start()
    listener = Listener(one, clock)
    await listener.next()
    await other.renew([claim.lease], LEASE)
    await other.record_progress(claim.lease, Progress(1), RESPONSE)
    for _ in range(3):
        await clock.advance(CATCH_UP_SECONDS)
        await one.stats()
    assert len(listener.heard) == 1


async def test_what_is_written_right_after_opening_is_told(path: Path, clock: ManualClock) -> None:
    async with SqliteStore.open(path, clock=clock) as one:
        listener = Listener(one, clock)
        async with SqliteStore.open(path, clock=clock) as other:
            operation = await Driver(other, clock).insert()
        assert await listener.next() == [hint(operation)]


async def test_own_writes_are_not_told_as_others(
    stores: tuple[SqliteStore, SqliteStore], clock: ManualClock
) -> None:
    one, _ = stores
    listener, driver = Listener(one, clock), Driver(one, clock)
    for _ in range(3):
        await driver.insert()
        await clock.advance(CATCH_UP_SECONDS)
        await one.expire(1)
    await one.stats()
    assert len(listener.heard) == 3
    assert None not in listener.heard


async def test_anything_may_have_changed_when_what_others_wrote_cannot_be_read(
    stores: tuple[SqliteStore, SqliteStore],
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    one, other = stores
    listener, driver = Listener(one, clock), Driver(other, clock)

    async def fail(_: object) -> None:
        raise StoreUnavailableError("nothing can be read")

    with monkeypatch.context() as patched:
        patched.setattr(one, "_read", fail)
        await driver.insert()
        assert await listener.next() is None
    assert "nothing can be read" in caplog.text
    operation = await driver.insert()
    assert await told(listener) == {hint(operation)}


async def test_what_a_process_did_not_get_to_tell_is_told_for_it(
    stores: tuple[SqliteStore, SqliteStore], clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = stores
    listener = Listener(one, clock)
    monkeypatch.setattr(other._file.generation.hints, "committed", lambda: None)
    operation = await Driver(other, clock).insert()
    assert await listener.next() == [hint(operation)]


async def test_what_another_program_writes_is_noticed(
    stores: tuple[SqliteStore, SqliteStore], path: Path, clock: ManualClock
) -> None:
    """Somebody may set something right by hand."""
    one, _ = stores
    operation = await Driver(one, clock).insert()
    listener = Listener(one, clock)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE operations SET parent = 'elsewhere'")
    assert await listener.next() is None
    assert (await one.get(operation.name)).parent == "elsewhere"


async def test_a_listener_that_raises_does_not_end_the_watch(
    stores: tuple[SqliteStore, SqliteStore], clock: ManualClock
) -> None:
    one, other = stores

    def fail(_: Changes) -> None:
        raise RuntimeError("no listener should")

    one.changes.subscribe(fail)
    listener, driver = Listener(one, clock), Driver(other, clock)
    for _ in range(2):
        operation = await driver.insert()
        assert await told(listener) == {hint(operation)}


def hint(operation: Operation) -> Change:
    """Return what another process is told of an operation."""
    return replace(Change.of(operation), record=None)


async def told(listener: Listener) -> set[Change]:
    """Return what is heard next."""
    changes = await listener.next()
    assert changes is not None
    assert all(change.record is None for change in changes)
    return set(changes)


# What is read.


async def test_a_reader_never_sees_what_another_process_has_replaced(
    stores: tuple[SqliteStore, SqliteStore], clock: ManualClock
) -> None:
    one, other = stores
    driver = Driver(other, clock)
    operation = await driver.insert()
    name = operation.name
    assert await one.get(name) == operation
    claim = await driver.claim_one()
    assert await one.get(name) == claim.operation
    reported = await other.record_progress(claim.lease, Progress(1, 2), Payload("m", b"1"))
    assert await one.get(name) == reported
    await clock.advance(1)
    await other.renew([claim.lease], LEASE)
    renewed = await one.get(name)
    assert renewed.ready_time == clock.now() + LEASE
    retried = await other.finish(claim.lease, Retry(ERROR, timedelta()))
    assert await one.get(name) == retried
    again = await driver.claim_one("worker-2")
    assert await one.get(name) == again.operation
    asked = await other.request_cancel(name)
    assert await one.get(name) == asked
    done = await other.finish(again.lease, Succeeded(RESPONSE))
    assert await one.get(name) == done
    await other.delete(name)
    with pytest.raises(OperationNotFoundError):
        await one.get(name)


async def test_a_reader_does_not_see_what_another_process_hides_or_forgets(
    stores: tuple[SqliteStore, SqliteStore], clock: ManualClock
) -> None:
    one, other = stores
    driver = Driver(other, clock)
    hidden = (await driver.start()).operation
    expired = await driver.run(Succeeded(RESPONSE), retention=timedelta(minutes=1))
    for operation in (hidden, expired):
        assert await one.get(operation.name) == operation
    await other.delete(hidden.name)
    with pytest.raises(OperationNotFoundError):
        await one.get(hidden.name)
    await clock.advance(60)
    with pytest.raises(OperationNotFoundError):
        await one.get(expired.name)
    assert await other.expire(10) == 1
    clock.jump(-60)
    with pytest.raises(OperationNotFoundError):
        await one.get(expired.name)


async def test_a_record_that_was_changed_here_is_read_as_another_process_left_it(
    stores: tuple[SqliteStore, SqliteStore], clock: ManualClock
) -> None:
    one, other = stores
    claim = await Driver(one, clock).start()
    changed = await other.record_progress(claim.lease, Progress(1), RESPONSE)
    assert await one.get(claim.operation.name) == changed
    done = await one.finish(claim.lease, Succeeded(RESPONSE))
    assert await other.get(claim.operation.name) == done
    assert done.progress == Progress(1)
    with pytest.raises(LeaseLostError):
        await other.record_progress(claim.lease, Progress(2), RESPONSE)


# What only one of them may have.


async def test_two_processes_share_2000_operations_and_none_twice(
    path: Path, clock: ManualClock, start_child: Callable[..., Any]
) -> None:
    async with SqliteStore.open(path, clock=clock) as store:
        driver = Driver(store, clock)
        operations = await asyncio.gather(*(driver.insert() for _ in range(2000)))
        children = [start_child("claim", path, f"worker-{number}") for number in range(2)]
        shares = await asyncio.to_thread(run_together, children)
        counted = Counter(name for share in shares for name in share)
        assert set(counted) == {operation.name for operation in operations}
        assert set(counted.values()) == {1}
        for number, share in enumerate(shares):
            kept = (await store.get_many(share)).values()
            assert {(it.worker, it.lease_epoch) for it in kept} == {(f"worker-{number}", 1)}
        assert await driver.claim() == []


def run_together(children: list[Any]) -> list[Any]:
    """Let children begin when all are ready; return what they say in the end."""
    for child in children:
        assert child.hear() == "ready"
    for child in children:
        child.tell()
    results = [child.hear() for child in children]
    for child in children:
        child.end()
    return results


def test_a_request_id_is_one_operation_in_all_processes(
    path: Path, start_child: Callable[..., Any]
) -> None:
    children = [start_child("insert", path, prefix, 60, "request_id") for prefix in "ab"]
    ours, theirs = run_together(children)
    assert ours == theirs
    assert len(set(ours)) == 60


def test_a_resource_is_worked_on_once_in_all_processes(
    path: Path, start_child: Callable[..., Any]
) -> None:
    children = [start_child("insert", path, prefix, 60, "exclusive_key") for prefix in "ab"]
    for number, pair in enumerate(zip(*run_together(children), strict=True)):
        assert sorted(pair) in (
            ["ExclusiveConflictError", f"operations/a-{number}"],
            ["ExclusiveConflictError", f"operations/b-{number}"],
        )


async def test_a_limit_on_what_waits_holds_for_all_processes(
    stores: tuple[SqliteStore, SqliteStore], clock: ManualClock
) -> None:
    drivers = [Driver(store, clock) for store in stores]
    for number in range(10):
        await drivers[number % 2].insert(name=f"operations/{number}", max_pending=10)
    for driver in drivers:
        with pytest.raises(QueueFullError):
            await driver.try_insert(max_pending=10)
    await drivers[0].claim(limit=3)
    for number in range(3):
        await drivers[1].insert(name=f"operations/more-{number}", max_pending=10)
    for driver in drivers:
        with pytest.raises(QueueFullError):
            await driver.try_insert(max_pending=10)


# Time.


async def test_a_clock_that_goes_back_undoes_nothing(
    stores: tuple[SqliteStore, SqliteStore], clock: ManualClock
) -> None:
    store, _ = stores
    driver = Driver(store, clock)
    done = await driver.run(Succeeded(RESPONSE))
    running = await driver.start()
    clock.jump(-86_400)
    assert await store.get(done.name) == done
    assert await store.request_cancel(done.name) == done
    assert await store.expire(10) == 0
    assert await driver.claim("worker-2") == []
    reported = await store.record_progress(running.lease, Progress(1), RESPONSE)
    assert reported.update_time >= running.operation.update_time
    assert (await store.renew([running.lease], LEASE)).lost == frozenset()
    ended = await store.finish(running.lease, Succeeded(RESPONSE))
    assert ended.start_time is not None
    assert ended.end_time is not None
    assert ended.end_time >= ended.start_time
    later = await driver.insert(name="operations/later")
    claim = await driver.claim_one()
    assert claim.operation.name == later.name
    await store.finish(claim.lease, Succeeded(RESPONSE))
    assert await driver.names() == [done.name, running.operation.name, later.name]
    clock.jump(86_400)
    assert await store.get(done.name) == done
    assert await driver.states(done.name, running.operation.name) == [State.SUCCEEDED] * 2
    assert {stats.method: stats.running for stats in await store.stats()} in ({}, {METHOD: 0})


async def test_a_worker_that_wrote_last_still_sees_who_took_over(
    stores: tuple[SqliteStore, SqliteStore], clock: ManualClock
) -> None:
    """What a store remembers of its own writes is worth nothing once another one wrote."""
    first, second = stores
    operation = await Driver(first, clock).insert(max_attempts=3)
    old = await Driver(first, clock).claim_one()
    await first.record_progress(old.lease, None, operation.metadata)
    assert first.peek(operation.name) is not None
    await clock.advance(LEASE.total_seconds() + 1)
    new = await Driver(second, clock).claim_one("worker-2")
    assert first.peek(operation.name) is None
    with pytest.raises(LeaseLostError):
        await first.record_progress(old.lease, None, operation.metadata)
    with pytest.raises(LeaseLostError):
        await first.finish(old.lease, Succeeded(RESPONSE))
    assert await first.get(operation.name) == new.operation
    done = await second.finish(new.lease, Succeeded(RESPONSE))
    assert first.peek(operation.name) is None
    assert await first.get(operation.name) == done
    with pytest.raises(LeaseLostError):
        await first.finish(old.lease, Succeeded(RESPONSE))


async def test_a_renewed_lease_is_not_shortened_by_what_is_written_next(
    path: Path, clock: ManualClock
) -> None:
    async with SqliteStore.open(path, clock=clock) as store:
        driver = Driver(store, clock)
        claim = await driver.start()
        await store.record_progress(claim.lease, None, claim.operation.metadata)
        await clock.advance(10)
        await store.renew([claim.lease], LEASE)
        await store.record_progress(claim.lease, None, claim.operation.metadata)
        assert (await store.get(claim.operation.name)).ready_time == clock.now() + LEASE
