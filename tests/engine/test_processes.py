"""Work in other processes.

What they do comes from the standard library, so that they can import it. A process
that reads from a pipe without a writer's end tells when it is at work: then the pipe
can be opened for writing; and when it is gone: then writing fails.
"""

import asyncio
import faulthandler
import importlib
import operator
import os
import runpy
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import pytest

from outlast.domain.errors import ConfigurationError
from outlast.domain.names import check_operation_name
from outlast.domain.transitions import DEADLINE_EXCEEDED
from outlast.engine.processes import ProcessPool, WorkerProcessError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes with names are POSIX")


class Pipe:
    """A pipe that blocks whoever reads it, until it is killed."""

    def __init__(self, path):
        os.mkfifo(path)
        self.path = Path(path)
        self._end = None

    @property
    def block(self):
        return self.path.read_bytes

    async def has_reader(self):
        """Return when a process is blocked."""
        self._end = await asyncio.to_thread(os.open, self.path, os.O_WRONLY)

    async def has_no_reader(self):
        """Return when that process is gone."""
        while True:
            try:
                os.write(self._end, b".")
            except BrokenPipeError:
                os.close(self._end)
                return
            await asyncio.sleep(0.001)


@pytest.fixture
def pipe(tmp_path):
    return Pipe(tmp_path / "pipe")


@pytest.fixture
async def pool():
    pool = ProcessPool(2, max_bytes=4_000_000)
    yield pool
    await pool.close()


def exists(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def children():
    """Return the pids of the processes that this one started."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == os.getpid():
            found.add(int(status.parent.name))
    return found


async def test_a_function_runs_in_another_process_and_returns(pool):
    assert await pool.run(operator.add, 1, 2) == 3
    assert await pool.run(os.getpid) != os.getpid()


async def test_what_a_function_raises_is_raised(pool):
    with pytest.raises(ValueError, match="invalid literal"):
        await pool.run(int, "x")


async def test_a_process_is_used_again(pool):
    assert await pool.run(os.getpid) == await pool.run(os.getpid)


async def test_a_function_that_leaves_its_process_ends_nothing_here(pool):
    with pytest.raises(WorkerProcessError, match="SystemExit"):
        await pool.run(sys.exit, 3)
    assert await pool.run(operator.add, 1, 2) == 3


async def test_a_process_that_dies_is_told_and_replaced(pool):
    with pytest.raises(WorkerProcessError):
        await pool.run(os._exit, 1)
    assert await pool.run(operator.add, 1, 2) == 3


async def test_an_idle_process_that_dies_is_replaced(pool):
    pid = await pool.run(os.getpid)
    os.kill(pid, 9)
    await asyncio.to_thread(pool._idle[0]._process.wait)
    assert await pool.run(os.getpid) != pid


@pytest.mark.parametrize(
    "call",
    [(lambda: None,), (print, threading.Lock()), (threading.Lock,)],
    ids=["function", "argument", "result"],
)
async def test_arguments_and_results_that_do_not_pickle_are_told(pool, call):
    with pytest.raises(ConfigurationError, match="not pickle"):
        await pool.run(*call)
    assert await pool.run(operator.add, 1, 2) == 3


class LoadedBy:
    """Pickles as a call that is made when it is loaded."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class Unsure:
    """Fails to pickle in a way of its own."""

    def __reduce__(self):
        raise ValueError("not now")


@pytest.fixture
def known_here_only(monkeypatch):
    """Return a function of a module that no other process can import."""
    module = ModuleType("known_here_only")
    exec("def work(): pass", vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.work


async def test_a_function_that_the_process_cannot_import_is_told(pool, known_here_only):
    with pytest.raises(ConfigurationError, match=r"cannot be loaded .*known_here_only"):
        await pool.run(known_here_only)
    assert await pool.run(operator.add, 1, 2) == 3


@pytest.mark.parametrize(
    ("argument", "match"),
    [
        (LoadedBy(int, "x"), "cannot be loaded .*ValueError"),
        (LoadedBy(sys.exit, 3), "cannot be loaded .*SystemExit"),
        (Unsure(), "not pickle .*not now"),
    ],
    ids=["error", "exit", "unsure"],
)
async def test_an_argument_that_cannot_be_passed_on_is_told(pool, argument, match):
    with pytest.raises(ConfigurationError, match=match):
        await pool.run(print, argument)
    assert await pool.run(operator.add, 1, 2) == 3


ODD = """
class Odd:
    def __reduce__(self):
        return int, ("x",)

def odd():
    return Odd()
"""


async def test_a_result_that_cannot_be_loaded_here_is_told(pool, tmp_path, monkeypatch):
    (tmp_path / "odd_results.py").write_text(ODD)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("odd_results")
    try:
        with pytest.raises(ConfigurationError, match=r"cannot be loaded here .*invalid literal"):
            await pool.run(module.odd)
    finally:
        del sys.modules["odd_results"]
    assert await pool.run(operator.add, 1, 2) == 3


SCRIPT = """
import asyncio
import operator
import sys

from outlast.domain.errors import ConfigurationError
from outlast.engine.processes import ProcessPool

class Result:
    pass

def work():
    return Result()

async def main():
    pool = ProcessPool(1, max_bytes=1000)
    print(await pool.run(operator.add, 1, 2))
    try:
        print(isinstance(await pool.run(work), Result))
    except ConfigurationError as error:
        print(error)
    await pool.close()

if __name__ == "__main__":
    asyncio.run(main())
"""


async def output_of(script):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, log = await process.communicate()
    assert process.returncode == 0, log
    return output.decode(), log.decode()


async def test_a_script_may_run_functions_of_its_own_and_return_its_own_objects(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    assert await output_of(script) == ("3\nTrue\n", "")


@pytest.mark.parametrize("end", ["raise RuntimeError('once only')", "sys.exit(3)"])
async def test_a_script_that_cannot_run_twice_costs_only_its_own_functions(tmp_path, end):
    script = tmp_path / "script.py"
    script.write_text(f"{SCRIPT}else:\n    {end}\n")
    output, log = await output_of(script)
    assert output.startswith("3\nthe function or an argument cannot be loaded")
    assert "once only" in log or "SystemExit" in log


async def test_cancelling_kills_the_process(pool, pipe):
    pid = await pool.run(os.getpid)
    call = asyncio.create_task(pool.run(pipe.block))
    await pipe.has_reader()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await pipe.has_no_reader()
    assert not exists(pid)


async def test_cancelling_while_the_process_starts_leaves_none_behind(pool):
    before = children()
    for milliseconds in (0, 1, 5, 20, 50, 100, 200):
        call = asyncio.create_task(pool.run(time.sleep, 3600))
        await asyncio.sleep(milliseconds / 1000)
        call.cancel()
        await asyncio.wait([call])
        assert children() == before


async def test_no_more_processes_work_at_a_time_than_the_pool_has(pool):
    calls = [pool.run(os.getpid) for _ in range(20)]
    assert len(set(await asyncio.gather(*calls))) <= 2


async def test_an_exception_that_does_not_pickle_is_told(pool):
    with pytest.raises(RuntimeError, match=r"does not pickle: .*InvalidArgumentError: name: "):
        await pool.run(check_operation_name, "")


SILENT = """
class SilentError(Exception):
    def __reduce__(self):
        raise self

    __str__ = __reduce__

def fail():
    raise SilentError
"""


async def test_an_exception_without_words_is_told(pool, tmp_path, monkeypatch):
    (tmp_path / "silent.py").write_text(SILENT)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("silent")
    try:
        pid = await pool.run(os.getpid)
        with pytest.raises(RuntimeError, match=r"does not pickle: silent\.SilentError"):
            await pool.run(module.fail)
    finally:
        del sys.modules["silent"]
    assert exists(pid)


async def test_what_is_printed_does_not_disturb_the_answers(pool):
    await pool.run(faulthandler.dump_traceback, 1)
    await pool.run(print, "noise")
    assert await pool.run(operator.add, 1, 2) == 3


async def test_large_arguments_and_results_pass(pool):
    assert await pool.run(operator.mul, b"x" * 1_000_000, 3) == b"x" * 3_000_000


async def test_a_closed_pool_leaves_no_process_behind(pool):
    before = children()
    await asyncio.gather(pool.run(os.getpid), pool.run(os.getpid))
    assert children() > before
    await pool.close()
    assert children() == before


async def test_a_cancelled_operation_kills_its_process(world, pipe):
    async def run(_request, context):
        await context.run_in_process(pipe.block)

    engine = await world.engine(world.method(run))
    name = await world.begin()
    await pipe.has_reader()
    await engine.manager.cancel(name)
    await pipe.has_no_reader()
    assert (await engine.manager.wait(name, None)).state == "CANCELLED"


async def test_the_deadline_kills_the_process(world, pipe):
    async def run(_request, context):
        await context.run_in_process(pipe.block)

    engine = await world.engine(world.method(run))
    name = await world.begin(timeout=timedelta(seconds=5))
    await pipe.has_reader()
    await world.clock.advance(5)
    await pipe.has_no_reader()
    assert (await engine.manager.wait(name, None)).error == DEADLINE_EXCEEDED


async def test_a_stop_kills_the_process(world, pipe):
    async def run(_request, context):
        await context.run_in_process(pipe.block)

    engine = await world.engine(world.method(run))
    name = await world.begin()
    await pipe.has_reader()
    await engine.stop()
    await pipe.has_no_reader()
    assert await world.state(name) == "PENDING"


async def test_an_attempt_whose_process_died_is_made_again(world):
    async def run(_request, context):
        await context.run_in_process(os._exit, 1)

    engine = await world.engine(world.method(run))
    name = await world.begin(max_attempts=1)
    operation = await engine.manager.wait(name, None)
    assert (operation.state, operation.dead_letter) == ("FAILED", True)


FORKS = """
import os, signal
pipe = open(__file__ + ".pipe", "w")
if os.fork():  # the child holds on to everything that is open here, the channel too
    pipe.write("forked")
    pipe.flush()
signal.pause()
"""


async def test_a_cancel_kills_what_the_work_has_started_as_well(pool, tmp_path):
    script, pipe = tmp_path / "forks.py", tmp_path / "forks.py.pipe"
    script.write_text(FORKS)
    os.mkfifo(pipe)
    running = asyncio.create_task(pool.run(runpy.run_path, str(script)))
    with await asyncio.to_thread(pipe.open) as writers:
        assert await asyncio.to_thread(writers.read, 6) == "forked"
        running.cancel()
        async with asyncio.timeout(10):
            await asyncio.wait([running])
            assert await asyncio.to_thread(writers.read) == ""  # the end: no writer is left


DAEMON = """
import os
import sys
import time

def fork():
    if os.fork() == 0:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        while os.path.exists(sys.argv[0]):
            time.sleep(0.01)
        os._exit(0)
"""


@pytest.fixture
def daemon(tmp_path, monkeypatch):
    """Return a module whose `fork` leaves a process behind that lives as long as a file."""
    life = tmp_path / "life"
    life.touch()
    (tmp_path / "forking.py").write_text(
        DAEMON.replace("sys.argv[0]", repr(str(life))) + EXITING, encoding="utf-8"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("forking")
    life.unlink()
    del sys.modules["forking"]


EXITING = """
def fork_and_exit():
    fork()
    os._exit(1)
"""


async def test_a_process_that_has_left_its_group_does_not_hold_up_the_end(pool, daemon):
    await pool.run(daemon.fork)
    await asyncio.wait_for(pool.close(), 20)


async def test_a_death_is_noticed_although_a_child_holds_the_channel_open(pool, daemon):
    with pytest.raises(WorkerProcessError):
        await asyncio.wait_for(pool.run(daemon.fork_and_exit), 20)
    assert await pool.run(operator.add, 1, 2) == 3
