"""Hints as the texts of notifications."""

import json

import pytest

from outlast.domain.operation import State
from outlast.ports import Change
from outlast.stores.postgres.hints import ANYTHING, packed, unpacked

CHANGES = [
    Change("operations/1", "a.B/C", State.PENDING),
    Change("operations/2", "a.B/C", State.RUNNING, cancel_requested=True),
    Change("operations/3", 'ä"\\', State.PENDING),
    Change('shelves/"\\\u2028😀/operations/4', "a.B/C", State.FAILED, deleted=True),
    Change("operations/5", "a.B/C", State.PENDING),
    Change("operations/6", "a.B/C", State.CANCELLED, cancel_requested=True, deleted=True),
]


def test_hints_arrive_as_they_were():
    waiting = {change.name: change for change in CHANGES}
    heard = unpacked(json.loads(packed(waiting)))
    assert not waiting
    assert sorted(heard, key=lambda it: it.name) == sorted(CHANGES, key=lambda it: it.name)


@pytest.mark.parametrize("length", [1, 200, 7_000])
def test_each_text_fits_into_a_notification_and_all_arrive(length):
    names = [f"operations/{number:04}{'ü' * (length // 6)}" for number in range(500)]
    states = [State.PENDING, State.SUCCEEDED]
    waiting = {it: Change(it, "m" * 50, states[len(it) % 2]) for it in names}
    heard = []
    while waiting:
        text = packed(waiting)
        assert text.isascii()
        assert len(text) < 7_950
        heard += unpacked(json.loads(text))
    assert [change.name for change in heard] == names


def test_as_many_fit_as_there_is_room_for():
    waiting = {it: Change(it, "m", State.PENDING) for it in map(str, range(100_000, 110_000))}
    packed(waiting)
    assert 10_000 - len(waiting) > 850


def test_a_name_that_is_too_long_is_left_out_and_anything_may_have_changed():
    long = Change("x" * 8_000, "m", State.PENDING)
    short = Change("y", "m", State.PENDING)
    waiting = {it.name: it for it in (short, long)}
    assert unpacked(json.loads(packed(waiting))) == [short]
    assert packed(waiting) == ANYTHING
    assert not waiting
    assert unpacked(json.loads(ANYTHING)) is None
