"""`outlast migrate-store`, and what it says."""

import asyncio
from pathlib import Path

import pytest

from outlast.cli.exit_codes import ExitCode
from outlast.stores import archive
from outlast.stores.sqlite import SqliteStore
from outlast.testing.clock import ManualClock
from outlast.testing.contract.driver import Driver


def fill(path: Path, *names: str, **fields: str) -> str:
    """Have operations in a file; return its name."""

    async def insert() -> None:
        clock = ManualClock()
        async with SqliteStore.open(path, clock=clock) as store:
            for name in names:
                await Driver(store, clock).insert(name=f"operations/{name}", **fields)

    asyncio.run(insert())
    return str(path)


def test_it_says_how_far_it_is_and_what_it_did(run, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "BATCH_OPERATIONS", 1)
    source = fill(tmp_path / "a.db", *map(str, range(20)))
    target = str(tmp_path / "b.db")

    result = run("migrate-store", source, target)

    assert result.exit_code == ExitCode.OK
    assert result.stdout == (
        f"20 operations in {source}: 20 added to {target}, 0 there already, 0 refused\n"
    )
    lines = result.stderr.splitlines()
    assert lines[-1] == "19 of 20 operations"
    assert len(lines) == 10


def test_a_second_run_has_nothing_to_do(run, tmp_path):
    source, target = fill(tmp_path / "a.db", "1", "2"), str(tmp_path / "b.db")
    run("migrate-store", source, target)
    result = run("migrate-store", source, target)
    assert result.exit_code == ExitCode.OK
    assert "0 added" in result.stdout
    assert "2 there already" in result.stdout


def test_a_store_without_operations_is_carried_with_its_secret(run, tmp_path):
    source, target = fill(tmp_path / "a.db"), str(tmp_path / "b.db")
    result = run("migrate-store", source, target)
    assert result.exit_code == ExitCode.OK
    assert result.stdout.startswith("0 operations in ")
    assert result.stderr == ""


def test_what_is_in_the_way_is_told_and_is_a_failure(run, tmp_path):
    source = fill(tmp_path / "a.db", "\x1b[2J", "2", target="one")
    target = fill(tmp_path / "b.db", "\x1b[2J", target="another")

    result = run("migrate-store", source, target)

    assert result.exit_code == ExitCode.NOT_MIGRATED
    assert "1 added to" in result.stdout
    assert "1 refused" in result.stdout
    assert "operations/[2J: the target has something else of this name\n" in result.stderr
    assert f"{target} had operations before and keeps its own secret" in result.stderr
    assert f"Error: 1 operations are not in {target}\n" in result.stderr


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("there is none.db", "there is no file"),
        ("memory:", "'memory:' cannot be the source; name a file or a postgresql:// URL"),
        ("postgresql://ada:hunter2@localhost:1/it", "postgresql://ada@localhost:1/it cannot be"),
    ],
)
def test_a_store_that_cannot_be_opened_is_a_failure_and_shows_no_password(
    source, reason, run, tmp_path
):
    result = run("migrate-store", source, str(tmp_path / "b.db"))
    assert result.exit_code == ExitCode.NOT_MIGRATED
    assert reason in result.stderr
    assert "hunter2" not in result.output
    assert not list(tmp_path.iterdir())
