"""The engine put together."""

import asyncio

import pytest

from outlast.domain.errors import OperationNotFoundError
from outlast.engine.clock import SystemClock
from outlast.engine.engine import Engine
from outlast.engine.settings import EngineSettings
from outlast.stores.memory import MemoryStore
from outlast.stores.sqlite import SqliteStore
from outlast.testing.faults import AWAY, Fault, Hints

BUG = Fault(fails=AWAY.fails, error=lambda: ValueError("a bug"))


async def test_the_log_has_the_worker_that_attempts_are_of(world, handler, caplog):
    caplog.set_level("INFO", "outlast.engine.engine")
    method = world.method(handler)
    engine = await world.engine(method)
    name = await world.insert()
    await world.in_time(handler.began.wait())
    attempt = (await world.inner.get(name)).worker
    assert f"worker {engine.executor.worker} runs {method.name}" in caplog.messages
    assert attempt == engine.executor.worker


async def test_the_sweeper_that_dies_is_noticed(world, caplog):
    world.store.inject(BUG, "expire")
    engine = await world.engine(execute=False)
    with pytest.raises(ValueError, match="a bug"):
        await world.in_time(engine.died)
    assert "outlast-expiry died" in caplog.text


async def test_the_reader_of_waiters_that_dies_is_noticed(world, caplog, monkeypatch):
    def fail(*_arguments):
        raise ValueError("a bug")

    engine = await world.engine(execute=False)
    name = await world.insert()
    waiting = asyncio.create_task(engine.manager.wait(name, 5))
    await world.clock.advance(0)
    monkeypatch.setattr("outlast.engine.waiters._settle", fail)
    world.store.changes.hints = Hints.VAGUE
    await world.inner.request_cancel(name)
    with pytest.raises(ValueError, match="a bug"):
        await world.in_time(engine.died)
    assert "outlast-waiters-reader died" in caplog.text
    assert (await world.in_time(waiting, 5)).done


@pytest.mark.parametrize(
    ("broken", "task"),
    [
        ("outlast.engine.running.Workload.free_slots", "outlast-claim"),
        ("outlast.engine.leases.LeaseKeeper._renew", "outlast-renew"),
        ("outlast.engine.running.Workload.__iter__", "outlast-fence"),
    ],
    ids=["claim", "renew", "fence"],
)
async def test_a_loop_of_the_executor_that_dies_is_noticed(
    world, handler, monkeypatch, *, caplog, broken, task
):
    def fail(*_arguments):
        raise ValueError("a bug")

    engine = await world.engine(world.method(handler), start=False)
    monkeypatch.setattr(broken, fail)
    engine.start()
    await world.clock.advance(10)
    with pytest.raises(ValueError, match="a bug"):
        await world.in_time(engine.died)
    assert f"{task} died" in caplog.text


async def test_the_end_of_an_engine_is_no_death(world, handler):
    engine = await world.engine(world.method(handler))
    await world.in_time(engine.stop())
    assert engine.died.cancelled()


async def test_an_error_in_the_block_stops_the_engine(world, handler):
    async def fail():
        async with Engine.open(world.store, world.clock, EngineSettings()) as engine:
            engine.register(world.method(handler))
            engine.start()
            await world.begin()
            assert handler.active == 1
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await fail()
    assert handler.cancelled == 1
    assert handler.active == 0


async def test_methods_are_known_by_name(world, handler):
    method = world.method(handler)
    engine = await world.engine(method)
    assert engine.methods == {method.name: method}


async def test_the_engine_says_how_many_calls_wait(world):
    engine = await world.engine(execute=False)
    waiting = asyncio.create_task(engine.manager.wait(await world.insert(), None))
    await world.clock.advance(0)
    assert engine.waiting == 1
    engine.release_waiters()
    await world.in_time(waiting)
    assert engine.waiting == 0


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_it_works_by_the_clock_of_the_machine(world, handler, tmp_path, kind):
    clock = SystemClock()
    opened = (
        MemoryStore.open(clock=clock)
        if kind == "memory"
        else SqliteStore.open(tmp_path / "operations.db", clock=clock)
    )
    handler.let_go.set()
    async with opened as store, Engine.open(store, clock, EngineSettings()) as engine:
        engine.register(world.method(handler))
        engine.start()
        world.inner, world.clock = store, _Standing(clock)
        operation = await engine.manager.wait(await world.insert(), None)
        assert operation.done
        with pytest.raises(OperationNotFoundError):
            await engine.manager.wait("operations/none", None)


class _Standing:
    """A clock that a `World` may ask for the time, and that it need not move."""

    def __init__(self, clock):
        self.now = clock.now

    async def advance(self, seconds):
        pass


@pytest.mark.parametrize("name", ["outlast-claim", "outlast-renew", "outlast-fence"])
async def test_a_background_task_that_somebody_cancels_is_noticed(world, handler, name):
    engine = await world.engine(world.method(handler))
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == name]
    task.cancel()
    with pytest.raises(RuntimeError, match=f"{name} was cancelled"):
        await world.in_time(engine.died)
