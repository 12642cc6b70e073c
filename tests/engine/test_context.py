"""What running work can do: report, record steps, leave the event loop."""

import asyncio
import contextvars
import threading
from datetime import timedelta

import pytest

from outlast.domain.errors import DuplicateStepError, PayloadTooLargeError, StoreUnavailableError
from outlast.domain.operation import Progress
from outlast.domain.status import Code, Payload, Status
from outlast.engine.outcome import AttemptFailedError
from outlast.engine.retry import RetryPolicy
from outlast.testing.faults import ANSWER_LOST, AWAY

LEASE = timedelta(seconds=30)
METADATA = Payload("example.v1.Metadata", b"m")


class Steps:
    """A handler that does steps, and counts how often each was really done."""

    def __init__(self, *keys):
        self.keys = keys
        self.done = []
        self.results = {}
        self.fail_after = None
        """The step after which the attempt fails."""
        self.stop_after = None
        """The step after which it works on until it is stopped."""

    async def __call__(self, _request, context):
        for key in self.keys:
            result = await context.recorded_step(key)
            if result is None:
                self.done.append(key)
                result = Payload("step", f"{key} in {context.operation.attempt}".encode())
                await context.record_step(key, result)
            self.results[key] = result.value.decode()
            if key == self.fail_after:
                raise AttemptFailedError(Status(Code.UNAVAILABLE, "jammed"))
            if key == self.stop_after:
                await asyncio.Event().wait()
        return Payload("")


@pytest.fixture
async def context(world, handler):
    """The context of a first attempt that runs."""
    await world.engine(
        world.method(handler), lease=LEASE, max_metadata_bytes=100, max_step_bytes=10
    )
    await world.begin()
    return handler.contexts[0]


async def test_what_is_reported_is_stored_before_the_report_returns(world, context):
    await context.report(Progress(1, 4, "stage", "message"), METADATA)
    operation = await world.get(context.operation.name)
    assert operation.progress == Progress(1, 4, "stage", "message")
    assert operation.metadata == METADATA


async def test_a_report_without_progress_keeps_the_last_one(world, context):
    await context.report(Progress(1, 4), METADATA)
    await context.report(None, Payload("example.v1.Metadata", b"new"))
    operation = await world.get(context.operation.name)
    assert operation.progress == Progress(1, 4)
    assert operation.metadata.value == b"new"


@pytest.mark.parametrize(
    ("progress", "metadata"),
    [
        (None, Payload("t", b"m" * 101)),
        (Progress(1, 4, stage="s" * 101), Payload("t")),
        (Progress(1, 4, message="m" * 101), Payload("t")),
        (Progress(1, 4, stage="s" * 30, message="☃" * 20), Payload("t", b"m" * 30)),
    ],
    ids=["metadata", "stage", "message", "all together"],
)
async def test_metadata_over_the_limit_is_refused_and_not_stored(
    world, context, progress, metadata
):
    with pytest.raises(PayloadTooLargeError):
        await context.report(progress, metadata)
    assert await world.get(context.operation.name) == context.operation


async def test_metadata_of_just_the_limit_is_stored(world, context):
    progress = Progress(1, 4, stage="s" * 20, message="☃" * 10)
    await context.report(progress, Payload("t", b"m" * 50))
    assert (await world.get(context.operation.name)).progress == progress


@pytest.mark.parametrize("fault", [AWAY, ANSWER_LOST], ids=["away", "answer lost"])
async def test_a_report_and_a_step_outlast_a_moment_of_outage(world, context, fault):
    world.store.inject(fault, "record_progress", "record_step", times=4)
    await world.in_time(context.report(Progress(1, 4), METADATA), 5)
    await world.in_time(context.record_step("a", Payload("s")), 5)
    name = context.operation.name
    assert (await world.get(name)).progress == Progress(1, 4)
    assert await world.inner.steps(name) == {"a": Payload("s")}


async def test_a_report_is_given_up_after_a_lease_of_outage(world, context):
    world.store.inject(AWAY, "record_progress")
    report = asyncio.create_task(context.report(None, METADATA))
    await world.clock.advance(29.9)
    assert not report.done()
    await world.clock.advance(0.2)
    with pytest.raises(StoreUnavailableError):
        report.result()


async def test_a_step_over_the_limit_is_refused_and_not_recorded(world, context):
    await context.record_step("small", Payload("s", b"x" * 10))
    with pytest.raises(PayloadTooLargeError, match="'large'"):
        await context.record_step("large", Payload("s", b"x" * 11))
    assert list(await world.inner.steps(context.operation.name)) == ["small"]


async def test_a_key_may_be_used_once_in_an_attempt(context):
    assert await context.recorded_step("a") is None
    with pytest.raises(DuplicateStepError, match="'a'"):
        await context.recorded_step("a")


async def test_a_key_that_was_used_twice_ends_the_attempt_and_no_other(world):
    steps = Steps("a", "a")
    await world.engine(world.method(steps, retry=RetryPolicy(jitter=0)))
    name = await world.begin(max_attempts=2)
    await world.clock.advance(10)
    operation = await world.get(name)
    assert (operation.state, operation.attempt) == ("FAILED", 2)
    assert steps.done == ["a"]


async def test_a_first_attempt_reads_no_steps(world):
    await world.engine(world.method(Steps("a", "b", "c")))
    assert await world.state(await world.begin()) == "SUCCEEDED"
    assert world.store.calls["steps"] == 0


async def test_steps_that_were_recorded_are_not_done_again_in_the_next_attempt(world):
    steps = Steps("a", "b", "c")
    steps.fail_after = "b"
    await world.engine(world.method(steps, retry=RetryPolicy(jitter=0)))
    name = await world.begin()
    steps.fail_after = None
    await world.clock.advance(1)
    assert await world.state(name) == "SUCCEEDED"
    assert steps.done == ["a", "b", "c"]
    assert steps.results == {"a": "a in 1", "b": "b in 1", "c": "c in 2"}
    assert world.store.calls["steps"] == 1


async def test_steps_outlive_an_attempt_that_was_given_back(world):
    steps = Steps("a", "b")
    steps.stop_after = "a"
    engine = await world.engine(world.method(steps), store=world.client())
    name = await world.begin()
    await world.in_time(engine.stop())
    steps.stop_after = None
    await world.engine(world.method(steps), store=world.client())
    assert await world.state(name) == "SUCCEEDED"
    assert steps.done == ["a", "b"]


async def test_steps_outlive_an_attempt_that_was_lost(world):
    steps = Steps("a", "b")
    name = await world.insert()
    claim = await world.take(lease=LEASE)
    await world.inner.record_step(claim.lease, "a", Payload("step", b"of the dead"))
    await world.engine(world.method(steps))
    await world.clock.advance(31)
    assert await world.state(name) == "SUCCEEDED"
    assert steps.done == ["b"]
    assert steps.results["a"] == "of the dead"


async def test_steps_outlive_the_process_on_disk(durable_world):
    steps = Steps("a", "b")
    name = await durable_world.insert()
    claim = await durable_world.take(lease=LEASE)
    await durable_world.inner.record_step(claim.lease, "a", Payload("step", b"of the dead"))
    await durable_world.clock.advance(30)
    engine = await durable_world.engine(durable_world.method(steps))
    operation = await engine.manager.wait(name, None)
    assert (operation.state, operation.lease_epoch) == ("SUCCEEDED", 2)
    assert steps.done == ["b"]


async def test_reading_steps_outlasts_a_moment_of_outage(world):
    steps = Steps("a")
    name = await world.insert()
    await world.take(lease=LEASE)
    await world.engine(world.method(steps))
    world.store.inject(AWAY, "steps", times=3)
    await world.clock.advance(32)
    assert await world.state(name) == "SUCCEEDED"


async def test_the_end_is_estimated_by_the_pace_of_this_attempt(world, context):
    await world.clock.advance(10)
    assert context.estimate_end(1, 4) == world.clock.now() + timedelta(seconds=30)


@pytest.mark.parametrize(("completed", "total"), [(0, 4), (4, 4), (5, 4), (1, 0), (0, 0)])
async def test_no_end_is_estimated_from_nothing(world, context, completed, total):
    await world.clock.advance(10)
    assert context.estimate_end(completed, total) is None


async def test_no_end_is_estimated_that_lies_beyond_the_calendar(world, context):
    await world.clock.advance(10)
    assert context.estimate_end(1, 10**12) is None
    assert context.estimate_end(1, 10**30) is None
    assert context.estimate_end(1, 10**400) is None


VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


async def test_a_thread_sees_the_context_variables_of_the_handler(context):
    VARIABLE.set("set")
    seen = await context.run_in_thread(lambda word: (word, VARIABLE.get()), "word")
    assert seen == ("word", "set")


async def test_what_a_thread_sets_stays_in_the_thread(context):
    VARIABLE.set("set")
    await context.run_in_thread(VARIABLE.set, "changed")
    assert VARIABLE.get() == "set"


async def test_a_thread_is_not_the_event_loops(context):
    assert await context.run_in_thread(threading.get_ident) != threading.get_ident()


async def test_what_a_thread_raises_is_raised(context):
    with pytest.raises(ValueError, match="invalid literal"):
        await context.run_in_thread(int, "x")


async def test_a_handler_that_waits_for_a_thread_can_be_cancelled(world):
    release, entered = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def block():
        loop.call_soon_threadsafe(entered.set)
        release.wait()

    async def run(_request, context):
        await context.run_in_thread(block)
        return Payload("")

    engine = await world.engine(world.method(run))
    try:
        name = await world.begin()
        await entered.wait()
        await engine.manager.cancel(name)
        await world.clock.advance(0)
        assert await world.state(name) == "CANCELLED"
    finally:
        release.set()
