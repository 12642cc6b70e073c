"""The invariants hold, whatever befalls the workers; and every seed can be replayed."""

import hashlib
import os
import subprocess
import sys

import pytest

from outlast.stores.memory import MemoryStore
from outlast.testing.simulation import InvariantError, simulate

SEEDS = 200
CHUNK = 10
REPLAYED = range(5)


@pytest.mark.parametrize("start", range(0, SEEDS, CHUNK))
def test_no_seed_breaks_an_invariant(start):
    for seed in range(start, start + CHUNK):
        simulate(seed)


def test_the_seeds_bring_about_everything_that_they_are_to_test():
    reports = [simulate(seed) for seed in range(25)]
    assert sum(it.operations for it in reports) > 200
    assert sum(it.workers for it in reports) > 100
    assert sum(it.pauses for it in reports) > 20
    assert sum(it.outages for it in reports) > 20
    assert sum(it.stops for it in reports) > 10
    assert all(it.seconds > 30 for it in reports)


def _digest():
    digests = "".join(simulate(seed).digest for seed in REPLAYED)
    return hashlib.sha256(digests.encode()).hexdigest()


def test_a_seed_does_the_same_again_in_the_same_process():
    assert _digest() == _digest()


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_seed_does_the_same_again_in_every_process(hash_seed):
    code = (
        "import hashlib; from outlast.testing.simulation import simulate;"
        f"digests = ''.join(simulate(seed).digest for seed in {REPLAYED!r});"
        "print(hashlib.sha256(digests.encode()).hexdigest())"
    )
    environment = {
        **os.environ,
        "PYTHONHASHSEED": hash_seed,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == _digest()


class _Forgetful(MemoryStore):
    """Loses every operation as soon as it is there."""

    async def insert(self, operation, request, **limits):
        inserted = await super().insert(operation, request, **limits)
        self._forget(operation.name)
        return inserted


def test_a_seed_that_fails_says_which_one_and_what_happened():
    with pytest.raises(InvariantError) as caught:
        simulate(7, store_factory=_Forgetful)
    message = str(caught.value)
    assert message.startswith("seed 7 breaks the invariant: what was committed is there")
    assert "insert: " in message
    assert "worker-1" in message
