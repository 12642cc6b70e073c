"""What becomes of a SQLite file that cannot be opened, written to or trusted."""

import asyncio
import os
import random
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from outlast.domain.errors import StoreOpenError
from outlast.stores.sqlite import SqliteStore, connection
from outlast.testing.clock import ManualClock
from outlast.testing.contract.driver import Driver

HEADER = b"SQLite format 3\0"
APPLICATION_ID = 0x4F75744C
SCHEMA = len(connection._migrations())


def open_and_close(path: Path, clock: ManualClock) -> None:
    async def run() -> None:
        async with SqliteStore.open(path, clock=clock):
            pass

    asyncio.run(run())


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def content_of(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def make_database(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


@pytest.mark.parametrize(
    "name",
    [
        "with space.db",
        "what?mode=ro",
        "a#b",
        "100%25",
        "Überprüfung 操作 😀.db",
        ":memory:",
        "file:store?mode=memory",
        "'quoted'.db",
        "-wal",
    ],
)
async def test_a_path_means_the_file_of_that_name(
    name: str, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (name, tmp_path / name):
        async with SqliteStore.open(path, clock=clock) as store:
            await Driver(store, clock).insert(name=f"operations/{type(path).__name__}")
    assert names_in(tmp_path) == sorted([name, f"{name}-generation"])
    async with SqliteStore.open(tmp_path / name, clock=clock) as store:
        assert len(await Driver(store, clock).names()) == 2


async def test_a_store_keeps_its_file_when_the_process_changes_its_folder(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    async with SqliteStore.open("store.db", clock=clock) as store:
        monkeypatch.chdir("elsewhere")
        await Driver(store, clock).insert()
        assert len(await Driver(store, clock).names()) == 1
    assert names_in(tmp_path) == ["elsewhere", "store.db", "store.db-generation"]
    assert names_in(tmp_path / "elsewhere") == []


def test_an_empty_file_becomes_a_store(path: Path, clock: ManualClock) -> None:
    path.touch()
    open_and_close(path, clock)
    assert content_of(path).startswith(HEADER)


async def test_the_secret_is_made_once(path: Path, tmp_path: Path, clock: ManualClock) -> None:
    secrets = []
    for file in (path, path, tmp_path / "other.db"):
        async with SqliteStore.open(file, clock=clock) as store:
            secrets.append(store.secret)
    assert [len(secret) for secret in secrets] == [32, 32, 32]
    assert secrets[0] == secrets[1] != secrets[2]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"x", id="one byte"),
        pytest.param(b"\0", id="one zero"),
        pytest.param(b"name,size\nchelsea,451\n" * 500, id="text"),
        pytest.param(HEADER, id="the first bytes of a header"),
        pytest.param(HEADER + bytes(83), id="most of a header"),
        pytest.param(HEADER + bytes(8176), id="a header of zeros"),
        pytest.param(bytes(8192), id="zeros"),
        pytest.param(random.Random(1).randbytes(10_000), id="noise"),
        pytest.param(HEADER + random.Random(2).randbytes(10_000), id="noise after a header"),
    ],
)
def test_a_file_that_is_no_database_is_refused_and_not_touched(
    content: bytes, path: Path, clock: ManualClock
) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreOpenError, match=r"name another file|restore it from a backup"):
        open_and_close(path, clock)
    assert path.read_bytes() == content
    assert names_in(path.parent) == [path.name]


@pytest.mark.parametrize("length", [1, 16, 99, 100, 512, 4096, 20_000])
def test_a_store_that_was_cut_off_is_refused_and_not_touched(
    length: int, path: Path, clock: ManualClock
) -> None:
    open_and_close(path, clock)
    content = path.read_bytes()[:length]
    path.write_bytes(content)
    with pytest.raises(StoreOpenError, match=r"name another file|restore it from a backup"):
        open_and_close(path, clock)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        pytest.param(["CREATE TABLE books (title TEXT)"], "another program", id="tables"),
        pytest.param(["PRAGMA application_id = 7"], "another program", id="an application_id"),
        pytest.param(["PRAGMA user_version = 1"], "another program", id="a user_version"),
        pytest.param(
            [f"PRAGMA application_id = {APPLICATION_ID}", "PRAGMA user_version = 1000"],
            r"schema 1000, made by a newer Outlast; .* Upgrade Outlast, or name another file",
            id="a newer schema",
        ),
        pytest.param(
            [f"PRAGMA application_id = {APPLICATION_ID}", "PRAGMA user_version = 1"],
            "damaged: restore it from a backup",
            id="no tables left",
        ),
        pytest.param(
            [
                f"PRAGMA application_id = {APPLICATION_ID}",
                f"PRAGMA user_version = {SCHEMA}",
                "CREATE TABLE settings (key, value)",
            ],
            "its secret is gone; restore it from a backup",
            id="no secret left",
        ),
    ],
)
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_database_that_is_no_store_of_ours_is_refused_and_not_touched(
    statements: list[str], message: str, journal: str, path: Path, clock: ManualClock
) -> None:
    make_database(path, f"PRAGMA journal_mode = {journal}", *statements)
    before = path.read_bytes()
    with pytest.raises(StoreOpenError, match=message) as caught:
        open_and_close(path, clock)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before
    assert names_in(path.parent) == [path.name]


async def test_a_store_of_a_newer_schema_keeps_its_operations(
    path: Path, clock: ManualClock
) -> None:
    async with SqliteStore.open(path, clock=clock) as store:
        await Driver(store, clock).insert()
    make_database(path, f"PRAGMA user_version = {SCHEMA + 1}")
    before = content_of(path)
    with pytest.raises(StoreOpenError, match="newer"):
        await asyncio.to_thread(open_and_close, path, clock)
    assert content_of(path) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "is a folder; name a file in it"),
        ("missing/store.db", "missing does not exist; create it first"),
        ("file/store.db", "file does not exist; create it first"),
        ("pipe", "not a regular file; name another one"),
        ("nul\0l", "null .*; name another file"),
        ("n" * 300, "too long.*; name another file"),
        ("loop", "name another file"),
    ],
)
def test_a_path_where_no_file_can_be_is_refused(
    name: str, message: str, tmp_path: Path, clock: ManualClock
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreOpenError, match=message):
        open_and_close(tmp_path / name, clock)
    assert names_in(tmp_path) == ["file", "loop", "pipe"]


def test_connections_that_cannot_all_be_opened_are_closed(
    path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[sqlite3.Connection] = []
    connect = connection.connect

    def fail_in_the_end(path: Path, **options: Any) -> sqlite3.Connection:
        if len(opened) == 2:
            error = sqlite3.OperationalError("unable to open database file")
            error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
            raise error
        opened.append(connect(path, **options))
        return opened[-1]

    monkeypatch.setattr(connection, "connect", fail_in_the_end)
    with pytest.raises(StoreOpenError, match="cannot be opened; check its path"):
        open_and_close(path, clock)
    for one in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            one.execute("SELECT 1")


def test_a_file_system_without_shared_memory_is_refused(
    path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A database in memory has no WAL either, and SQLite says so in the same way.
    connect = connection.connect
    monkeypatch.setattr(connection, "connect", lambda _, **rest: connect(Path(":memory:"), **rest))
    with pytest.raises(StoreOpenError, match="name a file on a local disk"):
        open_and_close(path, clock)


@pytest.mark.parametrize("size", [0, 1, 8, 16, 100])
async def test_the_file_beside_a_store_may_hold_anything(
    size: int, path: Path, clock: ManualClock
) -> None:
    path.with_name(f"{path.name}-generation").write_bytes(b"\xff" * size)
    for name in ("operations/first", "operations/second"):
        async with SqliteStore.open(path, clock=clock) as store:
            assert store.latest_time in (None, clock.now())
            operation = await Driver(store, clock).insert(name=name)
            assert await store.get(name) == operation


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_a_file_beside_a_store_that_is_none_is_named(
    kind: str, fresh: bool, path: Path, clock: ManualClock
) -> None:
    beside = path.with_name(f"{path.name}-generation")
    if not fresh:
        open_and_close(path, clock)
        beside.unlink()
    if kind == "folder":
        beside.mkdir()
    elif kind == "link":
        beside.symlink_to("elsewhere")
    else:
        os.mkfifo(beside)
    before = content_of(path)
    with pytest.raises(StoreOpenError, match=f"{beside} is not a regular file; remove it"):
        open_and_close(path, clock)
    assert content_of(path) == before
    assert not path.with_name("elsewhere").exists()


async def test_a_store_is_the_same_by_a_link_to_its_file(path: Path, clock: ManualClock) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    async with (
        SqliteStore.open(path, clock=clock) as one,
        SqliteStore.open(link, clock=clock) as other,
    ):
        name = (await Driver(one, clock).insert()).name
        assert one.peek(name) is not None
        cancelled = await other.request_cancel(name)
        assert one.peek(name) is None
        assert await one.get(name) == cancelled


async def test_the_latest_time_of_writing_outlives_the_process_and_clocks_that_go_back(
    path: Path, clock: ManualClock
) -> None:
    start = clock.now()
    async with SqliteStore.open(path, clock=clock) as store:
        assert store.latest_time is None
        await Driver(store, clock).insert()
        assert store.latest_time == start
    clock.jump(-3600)
    async with SqliteStore.open(path, clock=clock) as store:
        assert store.latest_time == start
        await store.expire(1)
        assert store.latest_time == start


# Permissions, which need a process of their own.


def test_what_must_not_be_written_is_refused(
    tmp_path: Path, clock: ManualClock, start_unprivileged_child: Callable[..., Any]
) -> None:
    for folder in ("folder", "hidden"):
        (tmp_path / folder).mkdir()
    for name in ("file.db", "folder/file.db"):
        open_and_close(tmp_path / name, clock)
    before = (tmp_path / "file.db").read_bytes()
    (tmp_path / "file.db").chmod(0o444)
    (tmp_path / "secret.db").touch(0o000)
    (tmp_path / "folder").chmod(0o555)
    (tmp_path / "hidden").chmod(0o000)
    child = start_unprivileged_child("open_stores", tmp_path)
    assert child.hear() == "ready"
    try:
        for name in ("file.db", "folder/file.db", "folder/new.db", "secret.db", "hidden/new.db"):
            child.tell(name)
            kind, message = child.hear()
            assert kind == "StoreOpenError", name
            assert "ermission" in message
    finally:
        (tmp_path / "folder").chmod(0o755)
        (tmp_path / "hidden").chmod(0o755)
    assert (tmp_path / "file.db").read_bytes() == before
    assert names_in(tmp_path / "folder") == ["file.db", "file.db-generation"]
    assert names_in(tmp_path / "hidden") == []


def test_a_read_only_disk_is_refused(
    tmp_path: Path, start_mounting_child: Callable[..., Any]
) -> None:
    child = start_mounting_child("read_only_disk", tmp_path)
    for _ in ("a store", "a new file"):
        kind, message = child.hear()
        assert kind == "StoreOpenError"
        assert "check" in message
    unharmed = child.hear()
    assert unharmed is True


async def test_the_latest_time_is_kept_to_the_microsecond(path: Path, clock: ManualClock) -> None:
    clock.jump(0.987654)
    async with SqliteStore.open(path, clock=clock) as store:
        await store.expire(1)
        assert store.latest_time == clock.now()


@pytest.mark.parametrize("hours", [24, 25])
async def test_a_latest_time_that_was_wrong_by_more_than_a_day_is_given_up(
    hours: int, path: Path, clock: ManualClock
) -> None:
    wrong = clock.now()
    async with SqliteStore.open(path, clock=clock) as store:
        await store.expire(1)
        clock.jump(-3600 * hours)
        await store.expire(1)
        assert store.latest_time == (wrong if hours == 24 else clock.now())


@pytest.mark.parametrize("seconds", [-1, 1])
async def test_a_latest_time_that_an_earlier_version_kept_in_seconds_is_understood(
    seconds: int, path: Path, clock: ManualClock
) -> None:
    now = clock.now()
    kept = now + timedelta(seconds=seconds)
    beside = path.with_name(f"{path.name}-generation")
    beside.write_bytes(struct.pack("=QQ", 1, int(kept.timestamp())))
    async with SqliteStore.open(path, clock=clock) as store:
        assert store.latest_time == kept
        await store.expire(1)
        assert store.latest_time == max(now, kept)
