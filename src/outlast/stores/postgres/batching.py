"""Does what several callers ask for at the same time at once."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from outlast.domain.errors import StoreUnavailableError

RUNS = 2
"""How many batches are under way at a time: one is prepared while another is committed."""
MAX_BATCH = 256
MAX_BATCH_BYTES = 8 * 1024 * 1024
"""What brings along more is divided: it would keep others waiting for long."""


class Sized(Protocol):
    """Something that is written."""

    @property
    def size(self) -> int:
        """How many bytes it brings along, about."""


S = TypeVar("S", bound=Sized)
Q = TypeVar("Q", bound=Sized)
A = TypeVar("A")


@dataclass(eq=False, slots=True)
class _Asked(Generic[Q, A]):
    key: str
    question: Q
    future: asyncio.Future[A | None]

    @property
    def size(self) -> int:
        return self.question.size


class Batcher(Generic[Q, A]):
    """Collects what is asked for under different keys, for a function that answers it.

    What has no answer, and all but one of what is asked for under one key at a time, is
    answered None. What is given up before its turn is not asked for.
    """

    def __init__(self, answer: Callable[[Mapping[str, Q]], Awaitable[Mapping[str, A]]]) -> None:
        self._answer = answer
        self._asked: deque[_Asked[Q, A]] = deque()
        self._runs: set[asyncio.Task[None]] = set()

    async def ask(self, key: str, question: Q) -> A | None:
        """Return the answer; raise what the function raised."""
        future: asyncio.Future[A | None] = asyncio.get_running_loop().create_future()
        self._asked.append(_Asked(key, question, future))
        if sum(not run.done() for run in self._runs) < RUNS:  # an ended one takes no more
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
            batch = take_batch(self._asked)
            chosen = {it.key: it for it in batch if not it.future.done()}
            answers: Mapping[str, A] = {}
            error: Exception | None = None
            if chosen:
                try:
                    answers = await self._answer({key: it.question for key, it in chosen.items()})
                except Exception as raised:  # noqa: BLE001  # who has asked is to hear of it
                    error = raised
            for asked in batch:
                if asked.future.done():
                    continue
                if error is not None:
                    asked.future.set_exception(copied(error))
                else:
                    is_chosen = chosen[asked.key] is asked
                    asked.future.set_result(answers.get(asked.key) if is_chosen else None)


def take_batch(waiting: deque[S]) -> Sequence[S]:
    """Take the first ones that fit into a batch, at least one."""
    batch = [waiting.popleft()]
    room = MAX_BATCH_BYTES - batch[0].size
    while waiting and len(batch) < MAX_BATCH and waiting[0].size <= room:
        batch.append(waiting.popleft())
        room -= batch[-1].size
    return batch


def copied(error: Exception) -> Exception:
    """Return an error to raise in one more task: each adds its own traceback."""
    if not isinstance(error, StoreUnavailableError):
        return error
    copy = StoreUnavailableError(error.message)
    copy.__cause__ = error.__cause__
    return copy
