"""What collects questions to the PostgreSQL store, or reads, without a database."""

import asyncio
from dataclasses import dataclass

import pytest

from outlast.domain.errors import OperationNotFoundError
from outlast.stores.postgres.batching import RUNS, Batcher
from outlast.stores.postgres.reading import READERS, PointReader


@dataclass
class Question:
    size: int = 1


async def test_who_asks_again_just_when_all_batches_are_over_is_answered():
    asked = asyncio.Semaphore(0)
    go = asyncio.Event()

    async def answer(questions):
        asked.release()
        await go.wait()
        return dict.fromkeys(questions, "yes")

    batcher = Batcher(answer)

    async def asking():
        return await batcher.ask("a", Question()), await batcher.ask("b", Question())

    async with asyncio.timeout(20):
        first = asyncio.create_task(asking())
        await asked.acquire()
        others = [asyncio.create_task(batcher.ask(f"{it}", Question())) for it in range(RUNS - 1)]
        for _ in others:
            await asked.acquire()
        go.set()
        assert await first == ("yes", "yes")
        assert await asyncio.gather(*others) == ["yes"] * len(others)


async def test_who_reads_again_just_when_all_readers_are_over_is_answered():
    asked = asyncio.Semaphore(0)
    go = asyncio.Event()

    async def none_found(_):
        asked.release()
        await go.wait()
        return {}

    reader = PointReader(none_found)

    async def read(*names):
        for name in names:
            with pytest.raises(OperationNotFoundError):
                await reader.get(name)

    async with asyncio.timeout(20):
        first = asyncio.create_task(read("a", "b"))
        await asked.acquire()
        others = [asyncio.create_task(read(f"{it}")) for it in range(READERS - 1)]
        for _ in others:
            await asked.acquire()
        go.set()
        await asyncio.gather(first, *others)
