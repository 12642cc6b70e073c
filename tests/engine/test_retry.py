from datetime import timedelta
from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlast.domain.errors import ConfigurationError
from outlast.domain.status import Code
from outlast.engine.retry import RetryPolicy


class TheirCode(Enum):
    """Codes as grpc has them."""

    UNAVAILABLE = (14, "unavailable")
    ABORTED = (10, "aborted")
    OK = (0, "ok")
    NONE = (99, "none")


def seconds(policy, attempt, chance=0.5):
    return policy.delay(attempt, chance).total_seconds()


def test_the_wait_grows_by_the_multiplier_with_each_attempt():
    policy = RetryPolicy(
        initial_backoff=timedelta(seconds=2), multiplier=3, max_backoff=timedelta(hours=1)
    )
    assert [seconds(policy, attempt) for attempt in (1, 2, 3, 4)] == [2, 6, 18, 54]


def test_the_wait_does_not_grow_beyond_the_maximum():
    policy = RetryPolicy(
        initial_backoff=timedelta(seconds=1), multiplier=2, max_backoff=timedelta(seconds=5)
    )
    assert [seconds(policy, attempt) for attempt in (3, 4, 100, 10**9)] == [4, 5, 5, 5]


def test_a_multiplier_of_one_keeps_the_wait_constant():
    policy = RetryPolicy(multiplier=1)
    assert {seconds(policy, attempt) for attempt in range(1, 50)} == {1}


def test_jitter_moves_the_wait_by_at_most_its_share_either_way():
    policy = RetryPolicy(initial_backoff=timedelta(seconds=10), jitter=0.2)
    assert [seconds(policy, 1, chance) for chance in (0, 0.5, 1)] == [8, 10, 12]


def test_without_jitter_chance_changes_nothing():
    policy = RetryPolicy(jitter=0)
    assert {seconds(policy, 1, chance) for chance in (0, 0.3, 1)} == {1}


@given(
    multiplier=st.floats(1, 100),
    jitter=st.floats(0, 1, exclude_max=True),
    attempt=st.integers(1, 10_000),
    chance=st.floats(0, 1),
)
def test_every_wait_is_positive_and_within_the_jittered_maximum(
    multiplier, jitter, attempt, chance
):
    policy = RetryPolicy(multiplier=multiplier, jitter=jitter)
    assert timedelta() <= policy.delay(attempt, chance) <= policy.max_backoff * (1 + jitter)


def test_the_default_retries_unavailable_only_and_five_attempts_in_all():
    policy = RetryPolicy()
    assert policy.codes == {Code.UNAVAILABLE}
    assert policy.max_attempts == 5


@pytest.mark.parametrize(
    "settings",
    [
        {"max_attempts": 0},
        {"max_attempts": -1},
        {"max_attempts": 2**31},
        {"multiplier": 0.99},
        {"multiplier": float("nan")},
        {"multiplier": float("inf")},
        {"multiplier": 1e6},
        {"jitter": -0.1},
        {"jitter": 1},
        {"jitter": float("nan")},
        {"initial_backoff": timedelta()},
        {"initial_backoff": timedelta(seconds=-1)},
        {"initial_backoff": timedelta(seconds=61)},
        {"max_backoff": timedelta()},
    ],
    ids=str,
)
def test_a_policy_that_makes_no_sense_is_refused(settings):
    with pytest.raises(ConfigurationError):
        RetryPolicy(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_attempts": "5"},
        {"max_attempts": 2.5},
        {"multiplier": "2"},
        {"jitter": None},
        {"initial_backoff": 10},
        {"max_backoff": 60.0},
        {"codes": Code.UNAVAILABLE},
        {"codes": TheirCode.UNAVAILABLE},
        {"codes": {Code.OK}},
        {"codes": {TheirCode.OK}},
        {"codes": {TheirCode.NONE}},
        {"codes": {99}},
        {"codes": "UNAVAILABLE"},
        {"codes": None},
    ],
    ids=str,
)
def test_a_policy_says_which_of_its_settings_is_of_another_type(settings):
    (name,) = settings
    with pytest.raises(ConfigurationError, match=f"{name} must be "):
        RetryPolicy(**settings)


@pytest.mark.parametrize(
    "codes",
    [
        [Code.UNAVAILABLE, Code.ABORTED],
        frozenset({TheirCode.UNAVAILABLE, TheirCode.ABORTED}),
        (14, TheirCode.ABORTED),
    ],
    ids=["list", "set", "tuple"],
)
def test_codes_may_be_given_as_others_have_them(codes):
    assert RetryPolicy(codes=codes).codes == frozenset({Code.UNAVAILABLE, Code.ABORTED})


def test_the_longest_wait_may_be_the_first():
    policy = RetryPolicy(initial_backoff=timedelta(minutes=1), max_backoff=timedelta(minutes=1))
    assert seconds(policy, 1) == seconds(policy, 2) == 60
