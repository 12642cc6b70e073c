"""Reads what several callers ask for at the same time in one statement."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence

from outlast.domain.errors import OperationNotFoundError, StoreUnavailableError
from outlast.domain.operation import Operation

READERS = 2
MAX_BATCH = 256

_ReadMany = Callable[[Sequence[str]], Awaitable[Mapping[str, Operation]]]


class PointReader:
    """Reads single operations; what is read is as it was after the call, or later."""

    def __init__(self, read_many: _ReadMany) -> None:
        self._read_many = read_many
        self._asked: defaultdict[str, list[asyncio.Future[Operation]]] = defaultdict(list)
        self._readers: set[asyncio.Task[None]] = set()

    async def get(self, name: str) -> Operation:
        """Return an operation; raise OperationNotFoundError if none is visible."""
        future: asyncio.Future[Operation] = asyncio.get_running_loop().create_future()
        self._asked[name].append(future)
        if sum(not it.done() for it in self._readers) < READERS:  # an ended one reads no more
            reader = asyncio.create_task(self._read(), name="outlast-postgres-reader")
            self._readers.add(reader)
            reader.add_done_callback(self._readers.discard)
        return await future

    async def stop(self) -> None:
        """Answer whoever has asked, and end."""
        if self._readers:
            await asyncio.wait(self._readers)

    async def _read(self) -> None:
        while self._asked:
            names = list(self._asked)[:MAX_BATCH]
            await self._answer_all({name: self._asked.pop(name) for name in names})

    async def _answer_all(self, asked: Mapping[str, Sequence[asyncio.Future[Operation]]]) -> None:
        try:
            found = await self._read_many(list(asked))
        except Exception as error:  # noqa: BLE001  # each of them is to hear of it
            if len(asked) > 1 and not isinstance(error, StoreUnavailableError):
                for name, futures in asked.items():  # one that cannot be read disturbs no other
                    await self._answer_all({name: futures})
                return
            for futures in asked.values():
                _answer(futures, error)
            return
        for name, futures in asked.items():
            _answer(futures, found.get(name) or OperationNotFoundError(name))


def _answer(futures: Sequence[asyncio.Future[Operation]], answer: Operation | Exception) -> None:
    for future in futures:
        if future.done():
            continue
        if isinstance(answer, Operation):
            future.set_result(answer)
        elif isinstance(answer, StoreUnavailableError):
            future.set_exception(StoreUnavailableError(answer.message))
        elif isinstance(answer, OperationNotFoundError):
            future.set_exception(OperationNotFoundError(answer.name))
        else:
            future.set_exception(answer)
