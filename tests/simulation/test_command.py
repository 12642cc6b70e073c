"""The command that runs many seeds, or one again."""

import re

import pytest
from click.testing import CliRunner

from outlast.testing.simulation.__main__ import main
from outlast.testing.simulation.simulate import simulate
from tests.simulation.bugs import BUGS


@pytest.fixture
def run():
    return lambda *arguments: CliRunner().invoke(main, arguments)


def test_it_runs_seeds_and_says_how_far_it_is(run):
    result = run("--seeds", "60", "--start", "100", "--jobs", "2")
    assert result.exit_code == 0, result.output
    assert result.output == "seeds 100 to 149 hold\nseeds 150 to 159 hold\n"


def test_it_says_what_one_seed_was(run):
    result = run("--seed", "7")
    assert result.exit_code == 0
    first, *figures, trace = result.output.splitlines()
    assert first == "seed 7 holds: no invariant was broken"
    report = simulate(7)
    told = [int(figure) for figure in re.findall(r" (\d+) ", " ".join(figures))]
    assert told == [
        report.steps,
        report.operations,
        report.workers,
        report.stops,
        report.pauses,
        report.outages,
    ]
    assert report.digest in trace


@pytest.mark.parametrize(
    "arguments",
    [
        ("--seeds", "0"),
        ("--seeds", "-3"),
        ("--jobs", "0"),
        ("--seed", "1", "--seeds", "3"),
        ("--seed", "1", "--start", "3"),
        ("--seed", "1", "--jobs", "2"),
    ],
    ids=" ".join,
)
def test_what_would_run_nothing_or_ignore_something_is_a_usage_error(run, arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Error: " in result.output
    assert f"{arguments[-2]}" in result.output
    assert "hold" not in result.output


def test_a_seed_that_fails_ends_it_with_what_happened(run, monkeypatch):
    BUGS["a_retry_is_due_at_once"](monkeypatch)
    result = run("--seeds", "60")
    assert result.exit_code == 1
    assert "breaks the invariant: a retry waits for its backoff" in result.output
    assert "what happened:" in result.output
