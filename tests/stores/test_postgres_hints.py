"""Hints as the texts of notifications."""

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
    heard = unpacked(packed(waiting))
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
        heard += unpacked(text)
    assert [change.name for change in heard] == names


def test_as_many_fit_as_there_is_room_for():
    waiting = {it: Change(it, "m", State.PENDING) for it in map(str, range(100_000, 110_000))}
    packed(waiting)
    assert 10_000 - len(waiting) > 850


def test_a_name_that_is_too_long_is_left_out_and_anything_may_have_changed():
    long = Change("x" * 8_000, "m", State.PENDING)
    short = Change("y", "m", State.PENDING)
    waiting = {it.name: it for it in (short, long)}
    assert unpacked(packed(waiting)) == [short]
    assert packed(waiting) == ANYTHING
    assert not waiting
    assert unpacked(ANYTHING) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        "1e999",
        "9" * 7_000,
        "[" * 3_900 + "]" * 3_900,
        '{"a":1}',
        "[1]",
        "[null]",
        '[["m","PENDING",0]]',
        '[["m","PENDING",0,["x"],1]]',
        '[[["m"],"PENDING",0,["x"]]]',
        '[["m","ASLEEP",0,["x"]]]',
        '[["m","PENDING",4,["x"]]]',
        '[["m","PENDING",-1,["x"]]]',
        '[["m","PENDING",0.0,["x"]]]',
        '[["m","PENDING",0,"x"]]',
        '[["m","PENDING",0,[["x"]]]]',
        '[["m","PENDING",0,[null]]]',
        '[["m","PENDING",0,[""]]]',
        '[["","PENDING",0,["x"]]]',
        '[["m","PENDING",0,["\\ud800"]]]',
        '[["m","PENDING",0,["good"]],["m","PENDING",0,[{}]]]',
    ],
)
def test_what_is_no_hint_says_that_anything_may_have_changed(text):
    assert unpacked(text) is None
