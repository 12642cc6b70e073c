from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlast.domain.errors import InvalidArgumentError
from outlast.domain.names import (
    EVERY_PARENT,
    MAX_NAME_LENGTH,
    MAX_PARENT_LENGTH,
    check_operation_name,
    check_parent,
    operation_name,
    parent_of_collection,
)

_segments = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,20}", fullmatch=True)
_parents = st.lists(_segments, max_size=6).map("/".join)


@given(_parents, _segments)
def test_a_name_that_was_put_together_is_an_operations_name(parent, operation_id):
    name = operation_name(parent, operation_id)
    assert check_operation_name(name) == name
    assert check_parent(parent) == parent


@given(_parents)
def test_a_parent_is_found_by_both_ways_to_name_its_collection(parent):
    assert parent_of_collection(f"{parent}/operations" if parent else "operations") == parent
    if parent != "operations" and not parent.endswith("/operations"):
        assert parent_of_collection(parent) == parent


@pytest.mark.parametrize("name", ["-", "-/operations"])
def test_every_parent_has_a_collection(name):
    assert parent_of_collection(name) == EVERY_PARENT


@given(st.text())
def test_any_name_is_taken_or_refused_as_an_argument(name):
    for check in (check_operation_name, check_parent, parent_of_collection):
        with suppress(InvalidArgumentError):
            check(name)


@pytest.mark.parametrize(
    ("parent", "name"),
    [("", "operations/1"), ("shelves/1", "shelves/1/operations/1"), ("a", "a/operations/1")],
)
def test_a_name_is_the_parent_the_collection_and_the_id(parent, name):
    assert operation_name(parent, "1") == name


@pytest.mark.parametrize(
    "name",
    [
        "operations/1",
        "a/operations/1",
        "a/b/c/operations/x.y~z_-",
        "operations/operations",
        "operations/operations/1",
        "projects/ü/operations/☃",
    ],
)
def test_names_that_could_be_an_operations(name):
    assert check_operation_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "operations",
        "operations/",
        "/operations/1",
        "a",
        "a/operations",
        "a/operations/",
        "a//operations/1",
        "a/operations/1/",
        "a/operations/1/b",
        "aoperations/1",
        "Operations/1",
        "x" * MAX_NAME_LENGTH + "/operations/1",
    ],
)
def test_names_that_no_operation_has(name):
    with pytest.raises(InvalidArgumentError) as caught:
        check_operation_name(name)
    assert caught.value.field == "name"


def test_a_name_may_be_as_long_as_the_limit_and_no_longer():
    longest = "operations/".ljust(MAX_NAME_LENGTH, "x")
    assert check_operation_name(longest) == longest
    with pytest.raises(InvalidArgumentError):
        check_operation_name(longest + "x")


@pytest.mark.parametrize("parent", ["", "a", "a/b", "A.b_c~d-e/9", "x" * MAX_PARENT_LENGTH])
def test_parents_that_operations_may_have(parent):
    assert check_parent(parent) == parent


@pytest.mark.parametrize(
    "parent",
    ["/", "a/", "/a", "a//b", "-", "a/-", ".", "..", "a/../b", "a b", "ü", "a\n", "a%", "a*"],
)
def test_parents_that_operations_may_not_have(parent):
    with pytest.raises(InvalidArgumentError) as caught:
        check_parent(parent)
    assert caught.value.field == "parent"


def test_a_parent_may_not_be_longer_than_the_limit():
    with pytest.raises(InvalidArgumentError):
        check_parent("x" * (MAX_PARENT_LENGTH + 1))


@pytest.mark.parametrize(
    ("name", "parent"),
    [
        ("", ""),
        ("operations", ""),
        ("shelves/1", "shelves/1"),
        ("shelves/1/operations", "shelves/1"),
        ("operations/operations", "operations"),
    ],
)
def test_collections_and_their_parents(name, parent):
    assert parent_of_collection(name) == parent


@pytest.mark.parametrize(
    "name", ["/", "/operations", "a/", "a//operations", "a/-/operations", "a b", "x" * 1025]
)
def test_names_that_no_collection_has(name):
    with pytest.raises(InvalidArgumentError) as caught:
        parent_of_collection(name)
    assert caught.value.field == "name"
