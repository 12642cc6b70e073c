"""SQLite stores on disks that are full, and in files that are damaged."""

import asyncio
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from outlast.domain.errors import OperationNotFoundError, StoreOpenError, StoreUnavailableError
from outlast.stores.sqlite import SqliteStore
from outlast.stores.sqlite.commands import CatchUp
from outlast.stores.sqlite.store import CATCH_UP_SECONDS
from outlast.stores.sqlite.transaction import Transaction
from outlast.testing.clock import ManualClock
from outlast.testing.contract.driver import LEASE, METHOD, Driver


def expect_failure_and_recovery(child: Any, message: str) -> None:
    kind, text = child.hear()
    assert kind == "StoreUnavailableError"
    assert message in text
    only_what_was_promised_is_there = child.hear()
    assert only_what_was_promised_is_there is True
    assert child.hear()[0] == "OperationNotFoundError"
    assert child.hear()[0] == "OK"
    added_afterwards = child.hear()
    assert added_afterwards == 1
    child.end()


def test_a_full_disk_is_survived(tmp_path: Path, start_mounting_child: Callable[..., Any]) -> None:
    child = start_mounting_child("fill_disk", tmp_path)
    kind, message = child.hear()
    assert kind == "StoreOpenError"
    assert "the disk is full; make room" in message
    expect_failure_and_recovery(child, "the disk is full; make room")


def test_a_disk_without_room_for_the_file_beside_a_store_is_told(
    tmp_path: Path, start_mounting_child: Callable[..., Any]
) -> None:
    child = start_mounting_child("almost_full_disk", tmp_path)
    answers = [child.hear()]
    while answers[-1][0] != "OK":
        answers.append(child.hear())
    child.end()
    assert len(answers) > 2
    for kind, message in answers[:-1]:
        assert kind == "StoreOpenError"
        assert "the disk" in message or "No space left on device" in message
    assert any("db-generation: No space left on device" in message for _, message in answers)


def test_a_limit_on_the_size_of_files_is_survived(
    path: Path, start_child: Callable[..., Any]
) -> None:
    expect_failure_and_recovery(start_child("limit_file_size", path), "check the disk")


async def test_a_store_that_may_not_grow_refuses_writes_and_keeps_the_rest(
    path: Path, clock: ManualClock
) -> None:
    async with SqliteStore.open(path, clock=clock) as store:
        driver = Driver(store, clock)
        kept = [(await driver.insert()).name]
        claim = await driver.claim_one()
        store._file.writer.execute("PRAGMA max_page_count = 1")
        refused = [driver.new(target="x" * 100_000) for _ in range(3)]
        results = await asyncio.gather(
            *(driver.try_insert(operation) for operation in refused), return_exceptions=True
        )
        assert [type(result) for result in results] == [StoreUnavailableError] * 3
        assert len(set(map(id, results))) == 3
        assert all("the disk is full; make room" in str(result) for result in results)
        assert (await store.get(kept[0])) == claim.operation
        assert await driver.names() == kept
        store._file.writer.execute("PRAGMA max_page_count = 1000000")
        kept += [(await driver.insert()).name]
        assert sorted(await driver.names()) == kept


async def test_a_damaged_page_is_never_a_wrong_answer(tmp_path: Path, clock: ManualClock) -> None:
    whole = tmp_path / "whole.db"
    async with SqliteStore.open(whole, clock=clock) as store:
        driver = Driver(store, clock)
        operations = [await driver.insert(target="x" * 300) for _ in range(40)]
    size = whole.stat().st_size
    damaged = tmp_path / "damaged.db"
    away = 0
    for page in range(0, size, 4096):
        for junk in (bytes(4096), b"\xff" * 4096, random.Random(page).randbytes(4096)):
            shutil.copyfile(whole, damaged)
            with damaged.open("r+b") as file:
                file.seek(page)
                file.write(junk)
            away += await read_damaged(damaged, clock, operations)
    assert away > 40


async def read_damaged(path: Path, clock: ManualClock, operations: list[Any]) -> int:
    """Read everything; return how often the store said that it cannot."""
    away = 0
    try:
        async with SqliteStore.open(path, clock=clock) as store:
            for operation in operations[::13]:
                try:
                    assert await store.get(operation.name) == operation
                except StoreUnavailableError:
                    away += 1
                except OperationNotFoundError:
                    pytest.fail("a damaged page looks like an operation that never was")
            try:
                page = await Driver(store, clock).names()
                assert page == [operation.name for operation in operations]
            except StoreUnavailableError:
                away += 1
            try:
                claims = await store.claim("worker", {METHOD: 50}, 50, timedelta())
                assert len(claims.claims) == len(operations)
            except StoreUnavailableError:
                away += 1
    except StoreOpenError:
        away += 1
    return away


@pytest.mark.parametrize(
    "damage",
    [
        "progress = 'no JSON'",
        "last_error = '[1]'",
        "state = 'UNHEARD'",
        "create_time = 4611686018427387904",
        "timeout = 4611686018427387904",
    ],
)
async def test_an_operation_that_cannot_be_understood_keeps_no_other_from_being_run(
    damage: str, path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with SqliteStore.open(path, clock=clock) as store:
        driver = Driver(store, clock)
        bad, good = await driver.insert(), await driver.insert()
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(f"UPDATE operations SET {damage} WHERE name = ?", [bad.name])
        claims = await store.claim("worker-1", {METHOD: 5}, 5, LEASE)
        assert [claim.operation.name for claim in claims.claims] == [good.name]
        assert f"operation {bad.name} cannot be run" in caplog.text
        again = await store.claim("worker-1", {METHOD: 5}, 5, LEASE)
        assert again.claims == []
        assert again.next_ready_time is not None
        assert again.next_ready_time > clock.now()


async def test_an_error_that_nobody_foresaw_does_not_end_the_hints_of_what_others_write(
    path: Path,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    right, failed, told = CatchUp.run, asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def wrong(_command: CatchUp, _transaction: Transaction) -> int:
        loop.call_soon_threadsafe(failed.set)
        raise ValueError("a bug")

    async with (
        SqliteStore.open(path, clock=clock) as store,
        SqliteStore.open(path, clock=clock) as other,
    ):
        driver = Driver(other, clock)
        store.changes.subscribe(lambda _: told.set())
        monkeypatch.setattr(CatchUp, "run", wrong)
        await driver.insert()
        while not failed.is_set():
            await clock.advance(CATCH_UP_SECONDS)
            await store.stats()
        await store.expire(1)  # answered after the failure of its own watcher
        told.clear()
        monkeypatch.setattr(CatchUp, "run", right)
        await driver.insert()
        while not told.is_set():
            await clock.advance(CATCH_UP_SECONDS)
            await store.expire(1)
    assert "a bug" in caplog.text
