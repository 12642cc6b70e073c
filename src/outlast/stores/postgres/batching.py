"""Does what several callers ask for at the same time at once."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

from outlast.domain.errors import StoreUnavailableError

RUNS = 2
"""How many batches are under way at a time: one is prepared while another is committed."""
MAX_BATCH = 256

Q = TypeVar("Q")
A = TypeVar("A")


class Batcher(Generic[Q, A]):
    """Collects what is asked for under different keys, for a function that answers it.

    What has no answer, and all but one of what is asked for under one key at a time, is
    answered None. What is given up before its turn is not asked for.
    """

    def __init__(self, answer: Callable[[Mapping[str, Q]], Awaitable[Mapping[str, A]]]) -> None:
        self._answer = answer
        self._asked: deque[tuple[str, Q, asyncio.Future[A | None]]] = deque()
        self._runs: set[asyncio.Task[None]] = set()

    async def ask(self, key: str, question: Q) -> A | None:
        """Return the answer; raise what the function raised."""
        future: asyncio.Future[A | None] = asyncio.get_running_loop().create_future()
        self._asked.append((key, question, future))
        if len(self._runs) < RUNS:
            run = asyncio.create_task(self._run(), name="outlast-postgres-batch")
            self._runs.add(run)
            run.add_done_callback(self._runs.discard)
        return await future

    async def stop(self) -> None:
        """Answer whoever has asked."""
        if self._runs:
            await asyncio.wait(self._runs)

    async def _run(self) -> None:
        while self._asked:
            count = min(MAX_BATCH, len(self._asked))
            batch = [self._asked.popleft() for _ in range(count)]
            asked = {
                key: (question, future) for key, question, future in batch if not future.done()
            }
            answers: Mapping[str, A] = {}
            error: Exception | None = None
            if asked:
                try:
                    answers = await self._answer({key: it for key, (it, _) in asked.items()})
                except Exception as raised:  # noqa: BLE001  # who has asked is to hear of it
                    error = raised
            for key, _, future in batch:
                if future.done():
                    continue
                if error is not None:
                    future.set_exception(copied(error))
                else:
                    mine = asked[key][1] is future
                    future.set_result(answers.get(key) if mine else None)


def copied(error: Exception) -> Exception:
    """Return an error to raise in one more task: each adds its own traceback."""
    if not isinstance(error, StoreUnavailableError):
        return error
    copy = StoreUnavailableError(error.message)
    copy.__cause__ = error.__cause__
    return copy
