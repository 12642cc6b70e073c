"""What happens in the demonstration."""

import asyncio
import hashlib
from collections.abc import Mapping
from pathlib import Path

import grpc
from google.longrunning import operations_pb2
from rich.console import Console

from outlast_imaging.demo import DemoError
from outlast_imaging.demo.client import CHANNEL_OPTIONS, ImagingClient
from outlast_imaging.demo.display import (
    Display,
    live_display,
    print_derivatives,
    print_failures,
    print_table,
)
from outlast_imaging.demo.server import ServerProcess
from outlast_imaging.errors import ImagingError
from outlast_imaging.sources import Location, list_photos


async def run(folder: Path, data: Path, console: Console, *, kill: bool) -> int:
    """Process the photographs of a folder; return 0 if all succeeded. Paths are resolved.

    What is kept in `data` is found again by the next run, which goes on where this one
    ended. With `kill`, the server is killed when half of the photographs are done.
    Raises DemoError.
    """
    digests = await asyncio.to_thread(_prepare, folder, data)
    with live_display(console) as display:
        async with ServerProcess.open(data, folder, display.notice) as server:
            display.notice(f"Serving at {server.address}; operations and artifacts in {data}")
            operations, found = await _process(server, folder, digests, display, kill=kill)
            if found:
                display.notice(
                    f"{found} of {len(digests)} photos had been dealt with by an earlier run. "
                    f"To start anew, remove {data}"
                )
    print_table(console, operations)
    print_derivatives(console, operations.values())
    return 1 if print_failures(console, operations) else 0


def _prepare(folder: Path, data: Path) -> Mapping[str, bytes]:
    """Make the folder for data; return the digests of the photographs by their names."""
    if not folder.is_dir():
        raise DemoError(f"PHOTOS must be a folder of photographs: {folder} is not a folder")
    data.mkdir(parents=True, exist_ok=True)
    try:
        names = list_photos(Location(str(folder), ()))
    except ImagingError as error:
        raise DemoError(f"{folder}: {error.message}") from error
    if not names:
        raise DemoError(f"{folder} has no files that end in .jpg, .jpeg, .png, .webp or .avif")
    return {name: hashlib.sha256((folder / name).read_bytes()).digest() for name in names}


async def _process(
    server: ServerProcess,
    folder: Path,
    digests: Mapping[str, bytes],
    display: Display,
    *,
    kill: bool,
) -> tuple[Mapping[str, operations_pb2.Operation], int]:
    """Process all photographs at once, whatever becomes of the server meanwhile.

    Returns the finished operations, and how many of them were finished before.
    """
    done: dict[str, operations_pb2.Operation] = {}
    found: list[str] = []
    failure: BaseException | None = None

    async def process(client: ImagingClient, photo: str) -> None:
        started = await client.start(folder / photo, digests[photo])
        if started.done:
            found.append(photo)
        done[photo] = await client.follow(started, lambda each: display.show(photo, each))
        if kill and not started.done and len(done) == len(digests) // 2:
            server.kill()

    try:
        async with (
            grpc.aio.insecure_channel(server.address, options=CHANNEL_OPTIONS) as channel,
            asyncio.TaskGroup() as tasks,
        ):
            keeper = tasks.create_task(server.keep_running())
            client = ImagingClient(channel)
            await asyncio.gather(*(process(client, photo) for photo in digests))
            keeper.cancel()
    except* (grpc.aio.AioRpcError, DemoError) as errors:
        failure = errors.exceptions[0]
    if isinstance(failure, grpc.aio.AioRpcError):
        raise DemoError(f"{failure.code().name}: {failure.details()}") from failure
    if failure is not None:
        raise failure
    return {photo: done[photo] for photo in digests}, len(found)
