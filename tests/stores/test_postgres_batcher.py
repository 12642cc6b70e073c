"""What collects questions to the PostgreSQL store, without a database."""

import asyncio
from dataclasses import dataclass

from outlast.stores.postgres.batching import RUNS, Batcher


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
