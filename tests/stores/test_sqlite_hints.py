"""The memory in which processes with a file tell one another what they have changed."""

from collections.abc import Iterator

import pytest

from outlast.stores.sqlite.hints import WORDS, Hints

MANY = WORDS // 2
"""More rows than there is room for."""


@pytest.fixture
def memory() -> memoryview:
    return memoryview(bytearray(8 * WORDS)).cast("Q")


@pytest.fixture
def processes(memory: memoryview) -> Iterator[tuple[Hints, Hints]]:
    yield Hints(memory[:]), Hints(memory[:])
    memory.release()


def test_others_are_told_once_of_what_was_committed(processes: tuple[Hints, Hints]) -> None:
    one, other = processes
    other.put([3, 1, 3])
    assert not one.news()
    other.committed()
    assert list(one.news() or ()) == [3, 1]
    assert not one.news()
    assert not other.news()


def test_what_was_not_said_to_be_committed_is_told_with_what_comes_next(
    processes: tuple[Hints, Hints],
) -> None:
    one, other = processes
    other.put([1])
    one.put([2])
    one.committed()
    assert list(one.news() or ()) == [1]
    assert list(other.news() or ()) == [2]


def test_who_says_late_that_it_has_committed_takes_nothing_back(
    processes: tuple[Hints, Hints],
) -> None:
    one, other = processes
    one.put([1])
    other.put([2])
    other.committed()
    one.committed()
    assert list(one.news() or ()) == [2]
    assert list(other.news() or ()) == [1]


@pytest.mark.parametrize("at_once", [1, 100, MANY])
def test_who_has_missed_some_is_told_that_there_were_any(
    processes: tuple[Hints, Hints], at_once: int
) -> None:
    one, other = processes
    for start in range(0, MANY, at_once):
        other.put(range(start, start + at_once))
        other.committed()
    assert one.news() is None
    other.put([7])
    other.committed()
    assert list(one.news() or ()) == [7]


def test_what_is_overwritten_before_it_is_committed_is_not_read(
    processes: tuple[Hints, Hints],
) -> None:
    one, other = processes
    other.put([1])
    other.committed()
    other.put(range(MANY))
    assert one.news() is None


def test_processes_notice_that_they_are_not_alone(processes: tuple[Hints, Hints]) -> None:
    one, other = processes
    assert [one.visit(), one.visit()] == [False, False]
    assert [other.visit(), one.visit(), other.visit()] == [True, True, True]
    assert [other.visit(), one.visit(), one.visit()] == [False, True, False]


@pytest.mark.parametrize("word", [0, 1, 5, 2**31, 2**63, 2**64 - 2, 2**64 - 1])
@pytest.mark.parametrize("place", [slice(None), slice(1), slice(1, 2)], ids=["all", "0", "1"])
def test_the_memory_may_hold_anything_in_the_beginning(
    memory: memoryview, word: int, place: slice
) -> None:
    for number in range(WORDS)[place]:
        memory[number] = word
    one, other = Hints(memory[:]), Hints(memory[:])
    other.put([1])
    other.committed()
    one.news()  # whatever it is
    heard: list[int] = []
    for row in range(10, 20):
        other.put([row])
        other.committed()
        news = one.news()
        heard += [row] if news is None else news
    assert heard == list(range(10, 20))
