"""Work in other processes that takes, prints or sends too much."""

import asyncio
import operator
import os
import runpy
import signal
import sys
from pathlib import Path

import pytest

from outlast.domain.errors import PayloadTooLargeError
from outlast.engine.processes import ProcessPool, WorkerProcessError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

LIMIT = 20_000


@pytest.fixture
async def pool():
    pool = ProcessPool(1, max_bytes=LIMIT)
    yield pool
    await pool.close()


@pytest.fixture
def script(tmp_path):
    """Return what makes a script to be run in a process."""

    def script(text):
        path = tmp_path / "script.py"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return script


def ended(pid):
    """Return whether a process does nothing any more, collected by its parent or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def test_a_result_over_the_limit_is_refused(pool):
    with pytest.raises(PayloadTooLargeError, match=rf"10000\d\d bytes; the limit is {LIMIT}"):
        await pool.run(operator.mul, b"x", 1_000_000)
    assert await pool.run(operator.mul, b"x", LIMIT - 100) == b"x" * (LIMIT - 100)


async def test_a_result_of_many_small_parts_over_the_limit_is_refused(pool):
    with pytest.raises(PayloadTooLargeError):
        await pool.run(list, range(100_000))
    assert await pool.run(operator.add, 1, 2) == 3


async def test_an_error_over_the_limit_is_refused(pool, script):
    with pytest.raises(PayloadTooLargeError):
        await pool.run(runpy.run_path, script("raise ValueError('x' * 1_000_000)"))
    assert await pool.run(operator.add, 1, 2) == 3


@pytest.mark.parametrize("argument", [b"x" * LIMIT, list(range(LIMIT))], ids=["one", "many"])
async def test_arguments_over_the_limit_are_refused_before_a_process_is_asked(pool, argument):
    with pytest.raises(PayloadTooLargeError, match=f"the limit is {LIMIT}"):
        await pool.run(len, argument)
    assert not pool._idle
    assert await pool.run(operator.add, 1, 2) == 3


FLOODS = """
import os
import stat

for number in range(3, 20):
    try:
        if stat.S_ISFIFO(os.fstat(number).st_mode) or stat.S_ISSOCK(os.fstat(number).st_mode):
            os.write(number, (2**60).to_bytes(8))
            while True:
                os.write(number, bytes(65536))
    except OSError:
        pass
raise SystemExit("found no channel")
"""


async def test_a_process_that_sends_without_end_is_killed(pool, script):
    pid = await pool.run(os.getpid)
    with pytest.raises(PayloadTooLargeError, match=f"{2**60} bytes"):
        await pool.run(runpy.run_path, script(FLOODS))
    assert ended(pid)


async def test_what_is_printed_goes_past_the_server_into_its_log(pool):
    log = os.fstat(2)
    for output in (1, 2):
        assert os.path.samestat(await pool.run(os.fstat, output), log)


async def test_what_is_printed_is_in_the_log_at_once(pool, capfd):
    await pool.run(print, "a line")
    assert "a line\n" in capfd.readouterr().err


GREEDY = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28))
hoard = []
while True:
    hoard.append(bytes(2**22))
"""


async def test_work_that_is_refused_more_memory_fails_alone(pool, script):
    with pytest.raises(MemoryError):
        await pool.run(runpy.run_path, script(GREEDY))
    assert await pool.run(operator.add, 1, 2) == 3


async def test_a_process_is_killed_for_its_memory_before_the_server(pool):
    score = Path("/proc/self/oom_score_adj")
    assert int(await pool.run(score.read_text)) >= 500


async def test_a_pool_that_closes_ends_what_still_works(pool):
    pid = await pool.run(os.getpid)
    call = asyncio.create_task(pool.run(signal.pause))
    await asyncio.sleep(0)  # lets it begin
    await pool.close()
    with pytest.raises(WorkerProcessError):
        await call
    assert ended(pid)


@pytest.fixture
def child(tmp_path):
    return tmp_path / "child"


async def test_what_a_process_that_dies_has_started_dies_with_it(pool, script, child):
    # The child holds the channel open, too: without an end of it nobody heard of the death.
    dies = script(
        "import os, pathlib, signal\n"
        "child = os.fork()\n"
        "if not child: signal.pause()\n"
        f"pathlib.Path({str(child)!r}).write_text(str(child))\n"
        "os._exit(3)"
    )
    with pytest.raises(WorkerProcessError):
        await pool.run(runpy.run_path, dies)
    assert ended(await pool.run(child.read_text))
