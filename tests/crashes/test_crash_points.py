"""A process that ends at a commit, and what the next one makes of it.

The points are before and after the commit of everything that is written. At each a
process of `child.py` ends without a chance to do anything more, and another one goes
on with its file. What must hold then is what the functions named `check_` say.
"""

import json
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.crashes.child import DIED, PASSING, REQUESTS, STEPS

CHILD = Path(__file__).with_name("child.py")
OCCURRENCES = {
    "insert": (1, 4),
    "claim": (1, 3),
    "renew": (1,),
    "progress": (1, 4),
    "step": (1, 4),
    "finish": (1, 3),
    "delete": (1, 2),
    "expire": (1,),
    "cancel": (1,),
    "redrive": (1,),
}
"""Which of the commits that write something of a kind are points."""
POINTS = [
    pytest.param(f"{moment}-{verb}-commit", number, id=f"{moment}-{verb}-commit-{number}")
    for verb, numbers in OCCURRENCES.items()
    for moment in ("before", "after")
    for number in numbers
]
LASTING = [request_id for request_id, kind in REQUESTS.items() if kind not in PASSING]
ORPHANS = """
SELECT count(*) FROM (
    SELECT operation FROM requests UNION ALL SELECT operation FROM steps
    UNION ALL SELECT operation FROM attempts
) WHERE operation NOT IN (SELECT id FROM operations)
"""


@dataclass
class Kept:
    """What is in the file between two processes."""

    operations: dict[str, sqlite3.Row]
    steps: set[tuple[str, str]]
    attempts: list[sqlite3.Row]
    requests: set[str]
    orphans: int
    damage: list[str]

    @classmethod
    def read(cls, folder: Path) -> "Kept":
        with closing(sqlite3.connect(folder / "operations.db")) as database:
            database.row_factory = sqlite3.Row
            read = database.execute
            owned = "SELECT o.name, {} FROM operations o JOIN {} ON operation = o.id"
            return cls(
                {row["name"]: row for row in read("SELECT * FROM operations")},
                {tuple(row) for row in read(owned.format("key", "steps"))},
                read(owned.format("epoch, number, counted, outcome", "attempts")).fetchall(),
                {row["name"] for row in read(owned.format("1", "requests"))},
                read(ORPHANS).fetchone()[0],
                [row[0] for row in read("PRAGMA integrity_check")]
                + [str(tuple(row)) for row in read("PRAGMA foreign_key_check")],
            )


class Story:
    """What the processes wrote into their journal, one after the other."""

    def __init__(self, folder: Path) -> None:
        lines = (folder / "journal").read_text().splitlines()
        self.processes: list[list[list[str]]] = []
        for line in map(json.loads, lines):
            if line == ["process"]:
                self.processes.append([])
            else:
                self.processes[-1].append(line)

    def lines(self, word: str, process: int | None = None) -> list[list[str]]:
        """Return what follows a word in each line that begins with it."""
        chosen = self.processes if process is None else [self.processes[process]]
        return [line[1:] for lines in chosen for line in lines if line[0] == word]


def run(folder: Path, *arguments: object) -> int:
    """Run a process to its end; return how that was."""
    command = [sys.executable, str(CHILD), str(folder), *map(str, arguments)]
    return subprocess.run(command, check=False, timeout=50).returncode


def test_without_a_crash_everything_is_done_and_what_passes_is_gone(tmp_path):
    assert run(tmp_path) == 0
    kept, story = Kept.read(tmp_path), Story(tmp_path)
    check_file(kept)
    check_end(kept, story)
    assert {row["attempt"] for row in kept.operations.values()} == {1}


@pytest.mark.parametrize(("point", "occurrence"), POINTS)
def test_a_process_that_ends_at_a_commit_leaves_nothing_that_breaks_a_promise(
    tmp_path, point, occurrence
):
    assert run(tmp_path, point, occurrence) == DIED
    crashed = Kept.read(tmp_path)
    check_file(crashed)
    check_accepted(crashed, Story(tmp_path))
    assert run(tmp_path) == 0
    kept, story = Kept.read(tmp_path), Story(tmp_path)
    check_file(kept)
    check_accepted(kept, story)
    check_final(crashed, kept, story)
    check_steps(crashed, kept, story)
    check_attempts(crashed, kept, story)
    check_end(kept, story)


def check_file(kept):
    """The file is whole, and nothing is in it that belongs to nobody."""
    assert kept.damage == ["ok"]
    assert kept.orphans == 0
    assert kept.requests == kept.operations.keys()


def check_accepted(kept, story):
    """What was accepted is there, and the same request_id gives one operation."""
    names = {}
    for request_id, name in story.lines("started"):
        assert names.setdefault(request_id, name) == name
    for request_id in LASTING:
        if request_id in names:
            assert kept.operations[names[request_id]]["request_id"] == request_id
    request_ids = [row["request_id"] for row in kept.operations.values() if row["request_id"]]
    assert len(request_ids) == len(set(request_ids))
    assert {*request_ids} <= REQUESTS.keys()


def check_final(crashed, kept, story):
    """What was done stays as it was, by a byte, and is not run again."""
    done = {name: row for name, row in crashed.operations.items() if row["end_time"] is not None}
    for name, row in done.items():
        if name in kept.operations and not kept.operations[name]["deleted"]:
            assert tuple(kept.operations[name]) == tuple(row)
    assert not done.keys() & {name for name, _ in story.lines("began", 1)}
    told = {}
    for name, *result in story.lines("told"):
        assert told.setdefault(name, result) == result
        row = kept.operations.get(name)
        if row is not None:
            assert [row["state"], (row["response_value"] or b"").hex()] == result[:2]
    cancelled = {name for (name,) in story.lines("cancelled", 0)}
    assert not cancelled & {name for name, _ in story.lines("began", 1)}


def check_steps(crashed, kept, story):
    """A step that was recorded is not run again; one that was not is."""
    recorded = set()
    ran = Counter()
    for word, *step in (line for lines in story.processes for line in lines):
        if word == "recorded":
            recorded.add(tuple(step))
        if word == "ran":
            assert tuple(step) not in recorded
            ran[tuple(step)] += 1
    assert not crashed.steps & {tuple(step) for step in story.lines("ran", 1)}
    leases = Counter(name for name, _ in story.lines("began"))
    assert all(count <= leases[name] for (name, _), count in ran.items())
    for name, row in kept.operations.items():
        if row["response_value"] is not None:
            assert {(name, key) for key in STEPS} <= kept.steps & ran.keys()


def check_attempts(crashed, kept, story):
    """Each lease ran once, each attempt is told of, and a single loss costs nobody one."""
    begun = Counter(map(tuple, story.lines("began")))
    assert set(begun.values()) <= {1}
    for name, row in kept.operations.items():
        lost = [it for it in kept.attempts if it["name"] == name]
        assert {it["outcome"] for it in lost} <= {"LOST"}
        epochs = {row["lease_epoch"], *(it["epoch"] for it in lost)}
        assert epochs == set(range(1, row["lease_epoch"] + 1))
        assert {int(epoch) for began, epoch in begun if began == name} <= epochs
        assert row["attempt"] == 1 + sum(it["counted"] for it in lost) <= row["max_attempts"]
        assert not any(it["counted"] for it in lost[:2])
        before = crashed.operations.get(name)
        if before is not None and before["state"] == "RUNNING" and row["response_value"]:
            assert row["lease_epoch"] > before["lease_epoch"]


def check_end(kept, story):
    """Everything that was accepted is done, what has passed is gone, and nothing else is there."""
    started = dict(story.lines("started"))
    assert started.keys() == REQUESTS.keys()
    states = {started[request_id]: REQUESTS[request_id] for request_id in LASTING}
    expected = {"work": "SUCCEEDED", "endless": "CANCELLED", "fail": "FAILED"}
    failed = started["fail"]
    again = [name for name, row in kept.operations.items() if row["retried_from"] == failed]
    assert len(again) == 1
    assert {name: row["state"] for name, row in kept.operations.items()} == {again[0]: "FAILED"} | {
        name: expected[kind] for name, kind in states.items()
    }
    assert {name for name, _ in kept.steps} == {
        name for name, kind in states.items() if kind == "work"
    }
