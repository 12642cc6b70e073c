"""How many operations wait is known without counting them each time, and exactly."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlast.domain.errors import QueueFullError
from outlast.domain.operation import Claim
from outlast.domain.transitions import Outcome, Released, Retry, Succeeded
from outlast.stores.sqlite import SqliteStore
from outlast.testing.clock import ManualClock
from outlast.testing.contract.driver import ERROR, RESPONSE, Driver

steps = st.one_of(
    st.tuples(st.just("insert"), st.lists(st.none() | st.integers(0, 8), min_size=1, max_size=6)),
    st.tuples(st.just("spoil"), st.integers(1, 4)),
    st.tuples(st.sampled_from(["claim", "retry", "release", "finish", "cancel"]), st.just(2)),
    st.tuples(st.just("delete"), st.just(1)),
    st.tuples(st.just("other"), st.integers(1, 3)),
    st.tuples(st.just("probe"), st.just(0)),
)


@settings(max_examples=25)
@given(st.lists(steps, max_size=12))
def test_the_number_of_what_waits_is_exact(
    tmp_path_factory: pytest.TempPathFactory, deeds: list[tuple[str, Any]]
) -> None:
    asyncio.run(Counting(tmp_path_factory.mktemp("counting") / "store.db").run(deeds))


class Counting:
    """Does what changes how many operations wait, and counts them each time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._clock = ManualClock()
        self._claims: list[Claim] = []

    async def run(self, deeds: list[tuple[str, Any]]) -> None:
        async with AsyncExitStack() as stack:
            self._store, other = [
                await stack.enter_async_context(SqliteStore.open(self._path, clock=self._clock))
                for _ in range(2)
            ]
            self._driver = Driver(self._store, self._clock)
            self._other_driver = Driver(other, self._clock)
            for kind, argument in [*deeds, ("probe", 0)]:
                await getattr(self, f"_{kind}")(argument)

    def _count(self) -> int:
        (count,) = self._store._file.reader.execute(
            "SELECT count(*) FROM operations WHERE state = 'PENDING'"
        ).fetchone()
        return int(count)

    async def _insert(self, limits: list[int | None]) -> None:
        before = self._count()
        results = await asyncio.gather(
            *(self._driver.try_insert(max_pending=limit) for limit in limits),
            return_exceptions=True,
        )
        accepted = [
            limit
            for limit, result in zip(limits, results, strict=True)
            if not isinstance(result, QueueFullError)
        ]
        assert self._count() == before + len(accepted)
        assert accepted.count(None) == limits.count(None)
        for limit in set(limits) - {None}:
            assert limit is not None
            room = max(0, limit - before)
            assert sum(it is not None and it <= limit for it in accepted) <= room
        if len(set(limits)) == 1 and limits[0] is not None:
            assert len(accepted) == min(len(limits), max(0, limits[0] - before))

    async def _spoil(self, count: int) -> None:
        bad = self._driver.new(target="\ud800")
        results = await asyncio.gather(
            *(self._driver.try_insert(max_pending=1000) for _ in range(count)),
            self._driver.try_insert(bad),
            *(self._driver.claim(limit=1) for _ in range(count)),
            return_exceptions=True,
        )
        assert [type(it) for it in results if isinstance(it, Exception)] == [UnicodeEncodeError]
        self._claims += [
            claim for result in results if isinstance(result, list) for claim in result
        ]

    async def _claim(self, count: int) -> None:
        self._claims += await self._driver.claim(limit=count)

    async def _retry(self, count: int) -> None:
        await self._end(count, Retry(ERROR, timedelta()))

    async def _release(self, count: int) -> None:
        await self._end(count, Released())

    async def _finish(self, count: int) -> None:
        await self._end(count, Succeeded(RESPONSE))

    async def _end(self, count: int, outcome: Outcome) -> None:
        ending, self._claims = self._claims[:count], self._claims[count:]
        await asyncio.gather(*(self._store.finish(claim.lease, outcome) for claim in ending))

    async def _cancel(self, count: int) -> None:
        for name in (await self._driver.names())[:count]:
            await self._store.request_cancel(name)

    async def _delete(self, count: int) -> None:
        for name in (await self._driver.names())[:count]:
            await self._store.delete(name)

    async def _other(self, count: int) -> None:
        for _ in range(count):
            await self._other_driver.insert(name=self._driver.new().name)
        self._claims += await self._other_driver.claim(limit=1)

    async def _probe(self, _: int) -> None:
        count = self._count()
        with pytest.raises(QueueFullError):
            await self._driver.try_insert(max_pending=count)
        await self._driver.insert(max_pending=count + 1)
        with pytest.raises(QueueFullError):
            await self._driver.try_insert(max_pending=count + 1)
