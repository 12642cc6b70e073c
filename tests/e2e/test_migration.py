"""A service that outgrows its file and moves to PostgreSQL."""

import subprocess
import sys
from datetime import timedelta

from google.longrunning import operations_pb2
from outlastapi.script.v1 import script_pb2

SCRIPT = ("--script", "--lease", "1s")


def outlast(folder, *arguments):
    command = [sys.executable, "-m", "outlast", *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


def durable(witness, duration):
    return {"durable": {"key": witness.name, "witness": witness.name, "duration": duration}}


def test_a_service_moves_to_postgresql_and_its_callers_and_its_work_go_on(
    serve, folder, eventually, postgres
):
    url = postgres.new_database()
    first, second = folder / "first", folder / "second"
    server = serve(*SCRIPT)
    done = [server.run_script({"answer": {"text": f"{number}"}}) for number in range(3)]
    results = [server.result(name) for name in done]
    refused = outlast(folder, "migrate-store", "outlast.db", url)
    assert refused.returncode == 9
    assert "is open in another process; stop the server that uses it first" in refused.stderr
    running = server.run_script(
        durable(first, timedelta()), durable(second, timedelta(seconds=3)), {"answer": {}}
    )
    eventually(second.exists)
    page = operations_pb2.ListOperationsRequest(name="operations", page_size=1)
    seen = server.operations.ListOperations(page)
    assert [each.name for each in seen.operations] == [running]
    server.kill()
    migrated = outlast(folder, "migrate-store", "outlast.db", url)
    assert migrated.returncode == 0, migrated.stderr
    assert "4 operations in outlast.db: 4 added to postgresql://" in migrated.stdout

    server = serve(*SCRIPT, "--store", url)
    page = operations_pb2.ListOperationsRequest(
        name="operations", page_size=10, page_token=seen.next_page_token
    )
    listed = server.operations.ListOperations(page).operations
    assert [each.name for each in listed] == done[::-1]
    assert [server.get(name) for name in done] == results
    answer = script_pb2.RunScriptResponse()
    assert server.result(running).response.Unpack(answer)
    assert first.read_text("utf-8").splitlines() == [f"{running} 1"]
    assert len(second.read_text("utf-8").splitlines()) == 2
    server.close()
    postgres.drop(url)
