"""What holds over all servers on one store: limits, exclusive keys and request_ids."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest
from google.longrunning import operations_pb2
from outlastapi.script.v1 import script_pb2, script_pb2_grpc

import outlast

NEVER = timedelta(hours=1)
"""Without a hint nothing happens within the test."""
LIMIT = 3


@pytest.fixture
def store(request, tmp_path, postgres_of):
    """Return what several servers can share."""
    if request.param == "sqlite":
        yield str(tmp_path / "operations.db")
        return
    server = postgres_of(request.param)
    url = server.new_database()
    yield url
    server.drop(url)


on_each_store = pytest.mark.parametrize("store", ["sqlite", "15", "18"], indirect=True)


class Press:
    """Work that is let go by name or all at once, and counted over all servers."""

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()
        """How many handlers run on each server."""
        self.peak = 0
        self.runs: Counter[str] = Counter()
        """How often each text was worked on."""
        self.gates: dict[str, asyncio.Event] = {}
        self.open = False

    def servicer(self, node, **options):
        """Return the service of a server, of which RunScript is the work."""
        press = self

        class Service(script_pb2_grpc.ScriptServiceServicer):
            @outlast.long_running(**options)
            async def RunScript(self, request, operation):
                text = request.steps[0].answer.text
                press.runs[text] += 1
                press.running[node] += 1
                press.peak = max(press.peak, press.running.total())
                try:
                    if press.open:
                        await asyncio.sleep(0.001)
                    else:
                        await press.gates.setdefault(text, asyncio.Event()).wait()
                finally:
                    press.running[node] -= 1
                return script_pb2.RunScriptResponse(text=text)

        return Service()

    def let_all_go(self):
        """Let go what runs and what is to come."""
        self.open = True
        for gate in self.gates.values():
            gate.set()


@pytest.fixture
def press():
    return Press()


@pytest.fixture
async def nodes(serving, press):
    """Return what opens servers on the store, with their services' options."""
    async with AsyncExitStack() as stack:

        async def nodes(*names, settings=None, **options):
            return [
                await stack.enter_async_context(
                    serving(press.servicer(name, **options), **(settings or {}))
                )
                for name in names
            ]

        yield nodes
        press.let_all_go()


def step(text):
    return {"answer": {"text": text}}


@on_each_store
async def test_no_more_handlers_run_on_all_servers_than_may_and_every_operation_ends(nodes, press):
    settings = {"concurrency": 2, "poll_interval": timedelta(seconds=1)}
    first, second = await nodes("first", "second", settings=settings, max_running=LIMIT)
    started = await asyncio.gather(
        *((first, second)[number % 2].run(step(str(number))) for number in range(40))
    )
    await first.until(lambda: press.running.total() >= LIMIT)
    press.let_all_go()
    for operation in started:
        assert (await second.done(operation)).HasField("response")
    assert press.peak == LIMIT
    assert set(press.runs.values()) == {1}


@on_each_store
async def test_a_place_that_one_server_leaves_is_taken_by_another_at_once(nodes, press):
    settings = {"poll_interval": NEVER, "waiter_poll_interval": NEVER, "lease": NEVER}
    (first,) = await nodes("first", settings=settings, max_running=1)
    await first.run(step("one"))
    await first.until(lambda: press.running["first"] == 1)
    draining = asyncio.create_task(first.engine.executor.drain())
    (second,) = await nodes("second", settings=settings, max_running=1)
    waiting = await second.run(step("two"))
    assert press.running == {"first": 1}
    press.gates["one"].set()
    async with asyncio.timeout(5):
        await second.until(lambda: press.running["second"] == 1)
    press.let_all_go()
    assert (await second.done(waiting)).HasField("response")
    assert press.peak == 1
    await draining


@on_each_store
async def test_servers_that_are_told_at_the_same_time_share_the_places_without_polling(
    nodes, press
):
    settings = {"poll_interval": NEVER, "waiter_poll_interval": NEVER, "lease": NEVER}
    servers = await nodes("first", "second", "third", settings=settings, max_running=1)
    started = await asyncio.gather(*(it.run(step(str(n))) for it in servers for n in range(10)))
    press.let_all_go()
    for operation in started:
        assert (await servers[0].done(operation)).HasField("response")
    assert press.peak == 1


@on_each_store
async def test_one_request_id_is_one_operation_on_all_servers_at_the_same_time(nodes, press):
    first, second = await nodes("first", "second")
    press.let_all_go()
    names = set()
    for number in range(10):
        request_id = f"6ba7b810-9dad-41d1-80b4-{number:012}"
        started = await asyncio.gather(
            *(
                it.run(step(request_id), request_id=request_id)
                for it in (first, second, first, second)
            )
        )
        assert len({operation.name for operation in started}) == 1
        names.add(started[0].name)
        assert (await second.done(started[0])).HasField("response")
    assert sorted(await first.names()) == sorted(names)
    assert set(press.runs.values()) == {1}


@on_each_store
async def test_an_exclusive_key_is_held_against_all_servers_at_the_same_time(nodes, press):
    first, second = await nodes("first", "second", exclusive=lambda _: "presses/1")
    for number in range(5):
        tries = await asyncio.gather(
            *(it.run(step(f"{number}")) for it in (first, second) * 3), return_exceptions=True
        )
        started = [it for it in tries if isinstance(it, operations_pb2.Operation)]
        refused = [it.code().name for it in tries if it not in started]
        assert (len(started), refused) == (1, ["ABORTED"] * 5)
        press.gates.setdefault(f"{number}", asyncio.Event()).set()
        assert (await second.done(started[0])).HasField("response")
    assert press.peak == 1
    assert press.runs.total() == 5
