"""What another process does with a store: `child.py DEED PATH …`.

It says each result in a line of JSON, and goes on when it reads a line.
"""

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from outlast.domain.errors import OutlastError
from outlast.stores.sqlite import SqliteStore
from outlast.testing.clock import ManualClock
from outlast.testing.contract.driver import METHOD, Driver

LEASE = timedelta(minutes=10)


def say(result: Any) -> None:
    """Tell the parent something."""
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def hear() -> str:
    """Wait until the parent says something."""
    return sys.stdin.readline().strip()


async def attempt(deed: Awaitable[object]) -> Sequence[str]:
    """Return the class and the text of the error that something ends with."""
    try:
        await deed
    except OutlastError as error:
        return type(error).__name__, str(error)
    return "OK", ""


async def open_and_close(path: Path) -> None:
    """Open a store and close it again."""
    async with SqliteStore.open(path, clock=ManualClock()):
        pass


def open_stores(folder: str) -> None:
    """Open each file of the folder that the parent names."""
    say("ready")
    while name := hear():
        say(asyncio.run(attempt(open_and_close(Path(folder) / name))))


def insert_and_die(path: str, count: str) -> None:
    """Let children insert operations and kill themselves when they know of the first."""
    for number in range(int(count)):
        if os.fork() == 0:
            asyncio.run(_insert_until_killed(path, number))
        _, status = os.wait()
        assert os.WTERMSIG(status) == signal.SIGKILL
    say("done")


async def _insert_until_killed(path: str, number: int) -> None:
    async with SqliteStore.open(path, clock=ManualClock()) as store:
        driver = Driver(store, ManualClock())
        inserts = [driver.insert(name=f"operations/{number}-{other}") for other in range(3)]
        for inserted in asyncio.as_completed(inserts):
            say((await inserted).name)
            os.kill(os.getpid(), signal.SIGKILL)


async def claim(path: str, worker: str) -> None:
    """Claim until nothing is left."""
    async with SqliteStore.open(path, clock=ManualClock()) as store:
        say("ready")
        hear()
        names: list[str] = []
        while claims := (await store.claim(worker, {METHOD: 7}, 7, LEASE)).claims:
            names += [claim.operation.name for claim in claims]
            await asyncio.sleep(0.001)  # SQLite's locks are not fair: let the other have a turn
        say(names)


async def insert(path: str, prefix: str, count: str, field: str) -> None:
    """Insert operations of which each has a value in one field that others use too."""
    async with SqliteStore.open(path, clock=ManualClock()) as store:
        driver = Driver(store, ManualClock())
        say("ready")
        hear()
        results: list[str] = []
        for number in range(int(count)):
            operation = driver.new(
                name=f"operations/{prefix}-{number}", **{field: f"value-{number}"}
            )
            try:
                results.append((await driver.try_insert(operation)).operation.name)
            except OutlastError as error:
                results.append(type(error).__name__)
        say(results)


async def fill_disk(folder: str) -> None:
    """Use a store on a disk of its own, which runs full and has room again."""
    mount(folder, "size=1m")
    ballast = Path(folder) / "ballast"
    fill(ballast)
    say(await attempt(open_and_close(Path(folder) / "too late.db")))
    make_room(ballast)
    async with SqliteStore.open(Path(folder) / "store.db", clock=ManualClock()) as store:
        driver = Driver(store, ManualClock())
        await driver.insert()
        fill(ballast)
        await fail_and_recover(driver, lambda: make_room(ballast))


def almost_full_disk(folder: str) -> None:
    """Open a store on a disk with no room, and with a page more each time until that works."""
    mount(folder, "size=1m")
    path, ballast = Path(folder) / "store.db", Path(folder) / "ballast"
    asyncio.run(open_and_close(path))
    content, pages = path.read_bytes(), 0
    result: Sequence[str] = "", ""
    while result[0] != "OK":
        for file in Path(folder).iterdir():
            file.unlink()
        path.write_bytes(content)
        fill(ballast)
        os.truncate(ballast, ballast.stat().st_size - 4096 * pages)
        result = asyncio.run(attempt(open_and_close(path)))
        say(result)
        pages += 1


async def limit_file_size(path: str) -> None:
    """Use a store whose files may not grow, and then may again."""
    async with SqliteStore.open(path, clock=ManualClock()) as store:
        driver = Driver(store, ManualClock())
        await driver.insert()
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size(f"{path}-wal") + 5000, unlimited[1]))
        await fail_and_recover(driver, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, unlimited))


async def fail_and_recover(driver: Driver, recover: Callable[[], object]) -> None:
    """Insert until that fails, and again when the reason is gone."""
    store = driver.store
    kept = await driver.names()
    failure: Sequence[str] = "OK", ""
    refused = ""
    while failure[0] == "OK":
        operations = [driver.new(target="x" * 1000) for _ in range(5)]
        inserts = (attempt(driver.try_insert(operation)) for operation in operations)
        *_, failure = await asyncio.gather(*inserts)
        if failure[0] == "OK":
            kept += [operation.name for operation in operations]
        else:
            refused = operations[-1].name
    say(failure)
    say(sorted(await driver.names()) == sorted(kept))
    say(await attempt(store.get(refused)))
    recover()
    say(await attempt(driver.insert()))
    say(len(await driver.names()) - len(kept))


async def read_only_disk(folder: str) -> None:
    """Open a store, and a new one, on a disk that cannot be written to."""
    mount(folder, "size=1m")
    await open_and_close(Path(folder) / "store.db")
    before = contents(folder)
    mount(folder, "remount,ro")
    say(await attempt(open_and_close(Path(folder) / "store.db")))
    say(await attempt(open_and_close(Path(folder) / "new.db")))
    say(contents(folder) == before)


def mount(folder: str, options: str) -> None:
    """Give a folder a disk in memory that nobody else sees."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)


def fill(ballast: Path) -> None:
    """Leave no room on a disk."""
    try:
        with ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        pass


def make_room(ballast: Path) -> None:
    """Undo `fill`."""
    ballast.unlink()


def file_size(path: str) -> int:
    """Return how many bytes a file has."""
    return Path(path).stat().st_size


def contents(folder: str) -> dict[str, bytes]:
    """Return what is in a folder."""
    return {entry.name: entry.read_bytes() for entry in Path(folder).iterdir()}


DEEDS = {
    deed.__name__: deed
    for deed in (
        open_stores,
        insert_and_die,
        claim,
        insert,
        fill_disk,
        almost_full_disk,
        limit_file_size,
        read_only_disk,
    )
}

if __name__ == "__main__":
    running = DEEDS[sys.argv[1]](*sys.argv[2:])
    if running is not None:
        asyncio.run(running)
