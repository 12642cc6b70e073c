"""Work that failed until it was given up, and is done again with the command."""

import re
import subprocess
import sys
from pathlib import Path

from google.longrunning import operations_pb2
from outlastapi.script.v1 import script_pb2

PRESS = """
import datetime
import pathlib

from outlastapi.script.v1 import script_pb2, script_pb2_grpc

import outlast

QUICK = datetime.timedelta(milliseconds=20)
LOG, PAPER = pathlib.Path("log"), pathlib.Path("paper")


def print_page(page):
    with LOG.open("a") as log:
        log.write(f"{page}\\n")
    return page


class Press(script_pb2_grpc.ScriptServiceServicer):
    @outlast.long_running(
        retry=outlast.RetryPolicy(max_attempts=3, initial_backoff=QUICK, max_backoff=QUICK)
    )
    async def RunScript(self, request, operation):
        for page in range(1, 6):
            if page == 4 and not PAPER.exists():
                raise outlast.OperationFailed(outlast.Code.UNAVAILABLE, "out of paper")
            await operation.step(f"page {page}", print_page, page)
        return script_pb2.RunScriptResponse(text=f"attempt {operation.attempt}")
"""


def outlast(server, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "outlast", *arguments, "--address", server.address]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def pages(folder: Path) -> list[str]:
    return (folder / "log").read_text("utf-8").split()


def test_a_dead_letter_is_retried_and_only_the_steps_that_were_left_run(serve, folder, state_of):
    (folder / "press.py").write_text(PRESS, encoding="utf-8")
    server = serve("--service", "press:Press")
    dead = server.result(server.run_script())
    assert state_of(dead).dead_letter
    assert state_of(dead).attempt == 3
    assert pages(folder) == ["1", "2", "3"]
    listed = outlast(server, "operations", "list", "--dead")
    assert [line.split("\t")[0] for line in listed.stdout.splitlines()] == [dead.name]
    attempts = outlast(server, "operations", "attempts", dead.name).stdout.splitlines()
    assert [line.split("\t")[:2] for line in attempts] == [[f"{n}", "FAILED"] for n in (1, 2, 3)]
    assert all("out of paper (UNAVAILABLE" in line for line in attempts)

    server.kill()  # what is to be retried is on disk
    (folder / "paper").touch()
    server = serve("--service", "press:Press")
    retried = outlast(server, "operations", "retry", dead.name, "--wait")
    assert retried.returncode == 0, retried.stderr
    assert '"text": "attempt 1"' in retried.stdout
    assert pages(folder) == ["1", "2", "3", "4", "5"]
    name = re.search(f"{dead.name} is retried as (\\S+)", retried.stderr)[1]
    done = server.result(name)
    answer = script_pb2.RunScriptResponse()
    assert done.response.Unpack(answer)
    assert state_of(done).retried_from == dead.name
    assert server.get(dead.name) == dead


def test_what_was_retried_once_is_not_retried_again_with_all_dead_letters(serve, folder):
    (folder / "press.py").write_text(PRESS, encoding="utf-8")
    server = serve("--service", "press:Press")
    dead = [server.result(server.run_script()).name for _ in range(3)]
    (folder / "paper").touch()
    first = outlast(server, "operations", "retry", "--dead")
    assert first.stderr == "Retried 3, skipped 0.\n"
    new = {line.split()[0]: line.split()[-1] for line in first.stdout.splitlines()}
    assert set(new) == set(dead)
    for name in new.values():
        assert server.result(name).HasField("response")
    second = outlast(server, "operations", "retry", "--dead")
    assert second.stdout == ""
    assert second.stderr.startswith("Retried 0, skipped 3.\n")
    page = server.operations.ListOperations(operations_pb2.ListOperationsRequest(), timeout=30)
    assert len(page.operations) == 6
    assert sorted(pages(folder)) == sorted("12345" * 3)
