"""Handlers that misbehave: their operations end with a clear error, and the server serves on."""

import asyncio
import importlib
import os
import sys
import time
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import reduce
from pathlib import Path

import pytest
from google.protobuf import empty_pb2
from outlastapi.script.v1 import script_pb2, script_pb2_grpc

import outlast
from outlast.testing.clock import ManualClock

QUICK = outlast.RetryPolicy(max_attempts=2, initial_backoff=timedelta(milliseconds=5))
LONG = {"sleep": {"seconds": 60}}


class WorseError(BaseException):
    """Nobody expects it."""


async def check_unexpected(client, done):
    assert done.error.code == outlast.Code.INTERNAL
    assert done.error.message == "the operation failed unexpectedly"
    assert client.reason(done) == "UNEXPECTED_FAILURE"
    assert client.metadata(done).attempt == 2
    assert client.metadata(done).dead_letter
    assert b"secret" not in done.SerializeToString()
    await client.check_alive()


@pytest.mark.assertion(53, 59)
@pytest.mark.parametrize(
    "error",
    [
        SystemExit("secret"),
        KeyboardInterrupt("secret"),
        GeneratorExit("secret"),
        WorseError("secret"),
        asyncio.CancelledError("secret"),
        StopIteration("secret"),
        StopAsyncIteration("secret"),
        TimeoutError("secret"),
        RecursionError("secret"),
        MemoryError("secret"),
        BaseExceptionGroup("secret", [SystemExit()]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_handler_that_raises_anything_fails(serving, scripted, error):
    async def work(*_):
        raise error

    async with serving(scripted(work, retry=QUICK)) as client:
        await check_unexpected(client, await client.finished())


class Bomb(str):
    """Text that ends the process of whoever treats it as text of its own kind."""

    __slots__ = ()

    def encode(self, *_args, **_options):
        raise SystemExit(3)

    __str__ = __len__ = __add__ = __radd__ = __getitem__ = __format__ = encode


class Count(int):
    """A number like that."""

    def __index__(self):
        raise SystemExit(3)

    __int__ = __lt__ = __gt__ = __le__ = __ge__ = __str__ = __index__


async def test_texts_and_numbers_of_classes_of_their_own_are_what_they_say(serving, scripted):
    async def work(_, operation):
        await operation.progress(
            completed=Count(1), total=Count(2), stage=Bomb("proof"), message=Bomb("read")
        )
        await operation.step(Bomb("key"), int)
        raise outlast.OperationFailed(outlast.Code.ABORTED, Bomb("hello"))

    retry = outlast.RetryPolicy(max_attempts=1)
    options = {"exclusive": lambda _: Bomb("books/1"), "target": lambda _: Bomb("books/1")}
    async with serving(scripted(work, retry=retry, **options)) as client:
        done = await client.finished()
        assert (done.error.code, done.error.message) == (outlast.Code.ABORTED, "hello")
        metadata = client.metadata(done)
        progress = metadata.progress
        assert (progress.completed, progress.total) == (1, 2)
        assert (progress.stage, progress.message) == ("proof", "read")
        assert metadata.target == "books/1"
        await client.check_alive()


async def test_a_handler_that_awaits_what_was_cancelled_fails(serving, scripted):
    async def work(*_):
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async with serving(scripted(work, retry=QUICK)) as client:
        await check_unexpected(client, await client.finished())


async def test_a_handler_that_cancels_itself_fails(serving, scripted):
    async def work(*_):
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    async with serving(scripted(work, retry=QUICK)) as client:
        await check_unexpected(client, await client.finished())


async def test_a_handler_that_cancels_itself_and_returns_has_returned(serving, scripted):
    async def work(*_):
        asyncio.current_task().cancel()

    async with serving(scripted(work, retry=QUICK)) as client:
        assert (await client.finished()).HasField("response")
        await client.check_alive()


async def test_a_handler_that_never_stops_calling_itself_fails(serving, scripted):
    async def work(request, operation):
        await work(request, operation)

    async with serving(scripted(work, retry=QUICK)) as client:
        await check_unexpected(client, await client.finished())


@pytest.mark.parametrize(
    "answer",
    ["text", b"bytes", 0, {}, empty_pb2.Empty(), script_pb2.RunScriptRequest(), object()],
    ids=lambda answer: type(answer).__name__,
)
async def test_a_handler_that_returns_another_type_fails_at_once(serving, scripted, caplog, answer):
    async def work(*_):
        return answer

    async with serving(scripted(work, retry=QUICK)) as client:
        done = await client.finished()
        assert done.error.code == outlast.Code.INTERNAL
        assert done.error.message.endswith("response type, outlastapi.script.v1.RunScriptResponse")
        returned = getattr(answer, "DESCRIPTOR", None)
        returned = returned.full_name if returned else type(answer).__name__
        assert (
            f"ScriptService/RunScript returned {returned} for operation {done.name}" in caplog.text
        )
        assert "must return outlastapi.script.v1.RunScriptResponse" in caplog.text
        assert client.reason(done) == "WRONG_RESPONSE_TYPE"
        assert client.metadata(done).attempt == 1
        await client.check_alive()


async def test_a_handler_that_returns_nothing_fails_at_once(serving):
    class Forgetful(script_pb2_grpc.ScriptServiceServicer):
        @outlast.long_running()
        async def RunScript(self, request, operation):
            pass

        @outlast.long_running()
        async def EraseScript(self, request, operation):
            return empty_pb2.Empty()

    async with serving(Forgetful()) as client:
        done = await client.finished()
        assert client.reason(done) == "WRONG_RESPONSE_TYPE"
        await client.check_alive()


async def test_a_result_over_the_limit_is_refused_at_once(serving):
    async with serving(max_response_bytes=1000) as client:
        done = await client.finished({"answer": {"size": 1001}})
        assert done.error.code == outlast.Code.RESOURCE_EXHAUSTED
        assert "1000" in done.error.message
        assert client.reason(done) == "RESPONSE_TOO_LARGE"
        assert client.metadata(done).attempt == 1
        assert (await client.finished({"answer": {"size": 900}})).HasField("response")


async def test_a_result_at_the_default_limit_passes_through_a_plain_channel(serving):
    async with serving() as client:
        size = 2 * 1024 * 1024 - 100
        done = await client.finished({"answer": {"size": size}})
        assert len(client.unpack(done.response).payload) == size
        done = await client.finished({"answer": {"size": size + 200}})
        assert done.error.code == outlast.Code.RESOURCE_EXHAUSTED


async def test_metadata_over_the_limit_fails_the_operation(serving, scripted):
    async def work(_, operation):
        operation.metadata.taken.update({f"{number}": 1 for number in range(100_000)})
        await operation.progress(completed=1)

    async with serving(scripted(work)) as client:
        done = await client.finished()
        assert done.error.code == outlast.Code.RESOURCE_EXHAUSTED
        assert "metadata" in done.error.message
        assert client.reason(done) == "PAYLOAD_TOO_LARGE"
        await client.check_alive()


async def test_a_step_over_the_limit_fails_the_operation(serving, scripted):
    async def work(_, operation):
        await operation.step("a", lambda: "x" * 1_000_000)

    async with serving(scripted(work)) as client:
        done = await client.finished()
        assert done.error.code == outlast.Code.RESOURCE_EXHAUSTED
        assert client.reason(done) == "PAYLOAD_TOO_LARGE"
        await client.check_alive()


@pytest.mark.parametrize(
    "result",
    [
        object(),
        {1, 2},
        float("nan"),
        b"bytes",
        {1: 2, "1": 3},
        [({"a": [{None: 1}]},)],
        reduce(lambda inner, _: [inner], range(100_000), None),
    ],
    ids=["object", "set", "nan", "bytes", "keys", "keys within", "too deep"],
)
async def test_a_step_whose_result_cannot_be_kept_fails_the_operation(serving, scripted, result):
    calls = []

    async def make():
        calls.append(1)
        return result

    async def work(_, operation):
        await operation.step("a", make)

    async with serving(scripted(work, retry=QUICK)) as client:
        done = await client.finished()
        check_fault(client, done)
        assert len(calls) == 1
        await client.check_alive()


async def test_a_step_that_is_taken_twice_fails_the_operation(serving, scripted):
    async def work(_, operation):
        await operation.step("a", int)
        await operation.step("a", int)

    async with serving(scripted(work)) as client:
        done = await client.finished()
        assert done.error.code == outlast.Code.INTERNAL
        assert client.reason(done) == "DUPLICATE_STEP"
        await client.check_alive()


async def test_a_mistake_that_an_operation_ends_with_is_logged(serving, scripted, caplog):
    async def work(_, operation):
        await operation.step("a", object)

    async with serving(scripted(work)) as client:
        done = await client.finished()
        check_fault(client, done)
        assert f"handler of operation {done.name} failed" in caplog.text
        assert "the result of step 'a' is neither" in caplog.text


class Unsendable:
    """It does not pickle, and talks about it."""

    def __reduce__(self):
        msg = "secret"
        raise ValueError(msg)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [(lambda: None, ()), (print, (Unsendable(),))],
    ids=["function", "argument"],
)
async def test_work_that_no_process_can_do_fails_at_once(
    serving, scripted, caplog, function, arguments
):
    async def work(_, operation):
        await operation.run_in_process(function, *arguments)

    async with serving(scripted(work, retry=QUICK)) as client:
        done = await client.finished()
        check_fault(client, done)
        assert "name a function of a module" in caplog.text
        assert client.metadata(done).attempt == 1


def check_fault(client, done):
    """Check that an operation has failed for a mistake that only the log tells of."""
    assert done.error.code == outlast.Code.INTERNAL
    assert client.reason(done) == "CONFIGURATION"
    assert done.error.message == "the service has a mistake, which the log of its server describes"
    assert b"secret" not in done.SerializeToString()


FAILS_ELSEWHERE = """
import outlast

class QueryError(Exception):
    def __init__(self, statement, reason):
        super().__init__(f"{reason}: {statement}")

def unexpectedly():
    raise QueryError("secret", "syntax error")

def as_meant():
    raise outlast.OperationFailed(outlast.Code.DATA_LOSS, "it is gone", reason="GONE")
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Return functions that fail and that other processes find."""
    (tmp_path / "fails_elsewhere.py").write_text(FAILS_ELSEWHERE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("fails_elsewhere")
    del sys.modules["fails_elsewhere"]


async def test_an_exception_from_a_process_keeps_its_text_to_itself(
    serving, scripted, elsewhere, caplog
):
    async def work(_, operation):
        await operation.run_in_process(elsewhere.unexpectedly)

    async with serving(scripted(work, retry=QUICK)) as client:
        await check_unexpected(client, await client.finished())
        assert "QueryError: syntax error: secret" in caplog.text


async def test_a_failure_from_a_process_is_told_as_meant(serving, scripted, elsewhere):
    async def work(_, operation):
        await operation.run_in_process(elsewhere.as_meant)

    async with serving(scripted(work)) as client:
        done = await client.finished()
        assert (done.error.code, done.error.message) == (outlast.Code.DATA_LOSS, "it is gone")
        assert client.reason(done) == "GONE"


async def test_progress_that_is_negative_fails_the_operation(serving, scripted):
    async def work(_, operation):
        await operation.progress(completed=-1)

    async with serving(scripted(work, retry=QUICK)) as client:
        await check_unexpected(client, await client.finished())


@pytest.mark.assertion(50, 51, 52)
async def test_an_error_of_any_size_ends_the_operation(serving, scripted):
    async def work(*_):
        raise outlast.OperationFailed(outlast.Code.DATA_LOSS, "ü" * 5_000_000)

    async with serving(scripted(work)) as client:
        done = await client.finished()
        assert done.error.code == outlast.Code.DATA_LOSS
        assert done.ByteSize() < 200_000
        await client.check_alive()


@pytest.mark.parametrize("code", [0, 17, -1, "NOT_FOUND", None])
async def test_an_error_with_a_code_that_there_is_not_fails_the_operation(serving, scripted, code):
    async def work(*_):
        raise outlast.OperationFailed(code, "no")

    async with serving(scripted(work, retry=QUICK)) as client:
        await check_unexpected(client, await client.finished())


@asynccontextmanager
async def longest_pause():
    """Yield what returns for how many seconds, at most, the loop has left a task waiting."""
    turned, pauses = time.monotonic(), [0.0]

    async def watch():
        nonlocal turned
        while True:
            await asyncio.sleep(0.005)
            pauses.append(time.monotonic() - turned)
            turned = time.monotonic()

    watching = asyncio.create_task(watch())
    try:
        yield lambda: max(pauses)
    finally:
        watching.cancel()


async def test_a_handler_that_blocks_the_loop_only_delays_others(serving):
    steps = [{"block": {"nanos": 300_000_000}}, {"answer": {"text": "x"}}]
    async with serving() as client, longest_pause() as pause:
        blocks = await client.run(*steps)
        others = [await client.finished() for _ in range(3)]
        done = await client.done(blocks)
        assert pause() >= 0.3
        assert client.unpack(done.response).text == "x"
        assert client.metadata(done).attempt == 1
        assert all(other.HasField("response") for other in others)


async def test_a_handler_that_blocks_for_longer_than_its_lease_ends_once(serving):
    lease = timedelta(milliseconds=500)
    settings = {"lease": lease, "poll_interval": timedelta(milliseconds=50)}
    async with serving(**settings) as client, longest_pause() as pause:
        blocks = await client.run({"block": {"seconds": 1}}, {"answer": {"text": "x"}})
        done = await client.done(blocks)
        await client.check_alive()
        assert pause() >= 1 > lease.total_seconds()
        assert client.unpack(done.response).text == "x"
        attempts = await client.engine.store.attempts(blocks.name)
        assert [(each.number, each.outcome) for each in attempts] == [(1, "SUCCEEDED")]
        assert await client.get(blocks.name) == done


async def test_a_handler_that_ignores_its_deadline_is_abandoned(serving, scripted):
    over, ended = asyncio.Event(), asyncio.Event()

    async def work(*_):
        while not over.is_set():
            try:
                await over.wait()
            except asyncio.CancelledError:
                continue
        ended.set()

    options = {"timeout": timedelta(milliseconds=50)}
    grace = timedelta(milliseconds=50)
    async with serving(scripted(work, **options), cancel_grace=grace) as client:
        done = await client.finished()
        assert done.error.code == outlast.Code.DEADLINE_EXCEEDED
        assert client.reason(done) == "OPERATION_TIMED_OUT"
        await client.check_alive()
        over.set()
        await ended.wait()
        await client.until(lambda: client.engine.executor.running == 0)
        assert await client.get(done.name) == done


async def test_a_server_ends_although_a_handler_does_not_stop(serving, scripted):
    over = asyncio.Event()

    async def work(*_):
        while not over.is_set():
            try:
                await over.wait()
            except asyncio.CancelledError:
                continue

    async with asyncio.timeout(10):
        async with serving(scripted(work), cancel_grace=timedelta(milliseconds=50)) as client:
            await client.running(await client.run())
    over.set()


async def test_a_handler_whose_process_dies_fails(serving, scripted):
    async def work(_, operation):
        await operation.run_in_process(os._exit, 3)

    retry = outlast.RetryPolicy(max_attempts=1)
    async with serving(scripted(work, retry=retry)) as client:
        done = await client.finished()
        assert done.error.code == outlast.Code.UNAVAILABLE
        assert client.reason(done) == "PROCESS_DIED"
        await client.check_alive()


async def test_a_handler_whose_process_is_busy_is_stopped_by_a_cancel(serving, scripted, tmp_path):
    pipe, ends = tmp_path / "pipe", []
    os.mkfifo(pipe)

    async def work(_, operation):
        await operation.run_in_process(Path.read_bytes, pipe)

    def is_read():
        with suppress(OSError):  # as long as nobody reads
            ends.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return bool(ends)

    def is_read_no_more():
        try:
            os.write(ends[0], b"x")
        except BrokenPipeError:
            return True
        return False

    async with serving(scripted(work)) as client:
        started = await client.run()
        await client.until(is_read)
        await client.cancel(started.name)
        done = await client.done(started)
        assert done.error.code == outlast.Code.CANCELLED
        assert client.reason(done) == "OPERATION_CANCELLED"
        await client.until(is_read_no_more)
        os.close(ends[0])
        await client.check_alive()


@pytest.mark.parametrize("step", [{"exit": True}, {"answer_wrong_type": True}, {"raise": "secret"}])
async def test_a_script_misbehaves_as_it_is_told(serving, step):
    async with serving() as client:
        done = await client.finished(step)
        assert done.error.code == outlast.Code.INTERNAL
        assert b"secret" not in done.SerializeToString()
        await client.check_alive()


@pytest.mark.assertion(59)
async def test_an_operation_whose_only_attempt_is_lost_fails(serving, scripted):
    clock, lease = ManualClock(), timedelta(seconds=30)
    once = outlast.RetryPolicy(max_attempts=1)
    method = "outlastapi.script.v1.ScriptService/RunScript"
    async with serving(scripted(retry=once), clock=clock, execute=False) as client:
        started = await client.run()
        for worker in ("lost", "next"):
            await client.engine.store.claim(worker, {method: 1}, 1, lease)
            await clock.advance(31)
        done = await client.get(started.name)
        assert done.error.code == outlast.Code.ABORTED
        assert client.reason(done) == "WORKER_LOST"
        assert client.metadata(done).attempt == 1
        assert client.metadata(done).dead_letter


async def test_a_script_does_not_do_what_it_is_told_not_to(serving):
    async with serving() as client:
        steps = [{"exit": False}, {"answer_wrong_type": False}, {"kill_process": False}]
        assert (await client.finished(*steps)).HasField("response")
        started = await client.running(await client.run({"ignore_cancellation": False}, LONG))
        await client.cancel(started.name)
        assert (await client.done(started)).error.code == outlast.Code.CANCELLED
