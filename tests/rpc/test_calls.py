"""Calls that nobody waits for any more: their handlers are closed, and nothing is answered."""

import asyncio
from contextlib import aclosing

from outlast.rpc.calls import guarded


class NoContext:
    """What a handler that is thrown away must not answer with."""

    async def abort(self, *_):
        raise AssertionError


def begun(ends):
    """Return a guarded call that waits for what never comes."""

    async def handler(_request, _context):
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ends.append("handler")

    call = guarded(handler)(None, NoContext())
    call.send(None)
    return call


async def test_a_call_that_is_thrown_away_by_another_task_just_ends():
    ends = []
    call = begun(ends)
    await asyncio.create_task(closing(call))
    assert ends == ["handler"]


async def closing(call):
    call.close()


async def test_a_call_that_is_thrown_away_after_the_loop_just_ends():
    ends = []
    call = begun(ends)
    await asyncio.to_thread(call.close)
    assert ends == ["handler"]


async def test_a_stream_that_is_closed_just_ends():
    async def handler(_request, _context):
        yield 1
        yield 2

    async with aclosing(guarded(handler)(None, NoContext())) as stream:
        assert await anext(stream) == 1
