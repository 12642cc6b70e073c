"""The simulation finds the bugs that are put in on purpose, each within 200 seeds."""

import pytest

from outlast.testing.simulation import InvariantError, simulate
from tests.simulation.bugs import BUGS

SEEDS = 200

pytestmark = pytest.mark.timeout(300)  # a bug that hides well takes them all


def _fails(seed):
    try:
        simulate(seed)
    except InvariantError:
        return True
    return False


@pytest.mark.parametrize("put_in", BUGS.values(), ids=BUGS)
def test_the_simulation_finds_out_that(put_in, monkeypatch):
    with monkeypatch.context() as patch:
        put_in(patch)
        found = next((seed for seed in range(SEEDS) if _fails(seed)), None)
    assert found is not None
    assert not _fails(found), "it fails without the bug as well"


def test_there_are_enough_bugs_for_the_table_to_say_something():
    assert len(BUGS) >= 12
