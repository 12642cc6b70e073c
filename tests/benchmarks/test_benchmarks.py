import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.postgres import noops


def run(*arguments):
    finished = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert finished.returncode == 0, finished.stderr
    assert "not decorated" not in finished.stderr
    return finished.stdout


def test_every_measurement_runs_and_names_its_target():
    """Whether the figures are good is not asked here: a test run is no place to time."""
    printed = run("benchmarks", "--quick")
    for line in ("bare get", "start, execution off", "start to done", "memory", "sqlite"):
        assert f"\n{line} " in printed
    for line in ("start reply to handler running", "completion to WaitOperation reply"):
        assert f"\n{line} " in printed
    assert "synchronous=FULL" in printed


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_every_measurement_on_postgres_runs_and_names_its_target(postgres_of):
    postgres_of("18")  # or skip
    printed = run("benchmarks.postgres", "--quick", "--no-peers")
    assert "PostgreSQL 18" in printed
    assert "fsync=on, synchronous_commit=on, full_page_writes=on" in printed
    for line in (
        *("  one commit each ", "  one commit each, and each waited for ", "    fenced:  yes"),
        *("one node, start reply to handler ", "two nodes, end of the work to WaitOperation "),
        *("1 kills, s ", "call to CancelledError ", "call to WaitOperation ", "one node  "),
        *("two nodes  ", "get  ", "claim and finish, 1,000 PENDING ", "first page of a list "),
    ):
        assert f"\n{line}" in printed
    assert printed.count("   target <= ") == 12
    assert "reads all rows" not in printed


def test_a_peer_that_is_not_installed_is_skipped_and_told_of(monkeypatch, capsys):
    for name in ("asyncpg", "dbos", "pgqueuer", "procrastinate"):
        monkeypatch.setitem(sys.modules, name, None)
    assert noops.installed_peers() == []
    assert capsys.readouterr().out.splitlines() == [
        f"skipped: {what} (`make bench-postgres` installs them)"
        for what in (
            "pgqueuer: not installed: pgqueuer, asyncpg",
            "procrastinate: not installed: procrastinate",
            "dbos: not installed: dbos",
        )
    ]
