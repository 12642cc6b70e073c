"""Encoded snapshots: which are kept, and for how long."""

from datetime import UTC, datetime

import pytest

from outlast.domain.operation import Operation
from outlast.rpc import snapshots
from outlast.rpc.snapshots import Snapshots

TIME = datetime(2024, 1, 1, tzinfo=UTC)


class Encoder:
    """Encodes an operation into as many bytes as its target is long, and counts."""

    def __init__(self):
        self.count = 0
        self.snapshots = Snapshots(self.encode)

    def encode(self, operation):
        self.count += 1
        return operation.target.encode()

    def shared(self, operation):
        """Whether a snapshot that was made before is returned."""
        before = self.count
        self.snapshots.of(operation)
        return self.count == before


@pytest.fixture
def encoder():
    return Encoder()


def operation(name, size=1, revision=1):
    return Operation(
        name=name,
        parent="",
        method="m",
        create_time=TIME,
        update_time=TIME,
        target="x" * size,
        revision=revision,
    )


def test_records_that_were_read_apart_share_the_bytes_of_their_state(encoder):
    first = encoder.snapshots.of(operation("a", size=1000))
    assert encoder.snapshots.of(operation("a", size=1000)) is first


def test_a_change_is_encoded_anew_and_takes_the_place_of_what_it_changed(encoder):
    for revision in range(1, 50):
        changed = operation("a", size=9_000_000, revision=revision)
        assert not encoder.shared(changed)
        assert encoder.shared(changed)
    encoder.shared(operation("b", size=7_000_000))
    assert encoder.shared(changed)


def test_so_many_are_kept(encoder, monkeypatch):
    monkeypatch.setattr(snapshots, "_MAX_KEPT", 3)
    kept = [operation(name) for name in "abcd"]
    assert not any(map(encoder.shared, kept))
    assert all(map(encoder.shared, kept[1:]))
    assert not encoder.shared(kept[0])


def test_so_many_bytes_are_kept(encoder):
    large = [operation(name, size=5_000_000) for name in "abcd"]
    assert not any(map(encoder.shared, large))
    assert all(map(encoder.shared, large[1:]))
    assert not encoder.shared(large[0])


def test_the_latest_is_kept_whatever_its_size(encoder):
    huge = operation("a", size=50_000_000)
    assert not encoder.shared(huge)
    assert encoder.shared(huge)
    assert not encoder.shared(operation("b"))
    assert not encoder.shared(huge)
