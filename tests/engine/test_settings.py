from dataclasses import fields
from datetime import timedelta

import pytest

from outlast.domain.errors import ConfigurationError
from outlast.domain.status import Payload
from outlast.engine.methods import Method
from outlast.engine.settings import EngineSettings

NAMES = [field.name for field in fields(EngineSettings)]


def same_kind(name, number):
    """Return a number in the kind of value that a setting has."""
    is_time = isinstance(getattr(EngineSettings(), name), timedelta)
    return timedelta(seconds=number) if is_time else number


async def run(_request, _context):
    return Payload("")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number", [0, -1])
def test_a_setting_that_is_not_positive_is_refused_by_name(name, number):
    with pytest.raises(ConfigurationError, match=name):
        EngineSettings(**{name: same_kind(name, number)})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", ["10", None, 1.5, True, timedelta.max])
def test_a_setting_of_another_type_or_beyond_the_calendar_is_refused_by_name(name, value):
    with pytest.raises(ConfigurationError, match=rf"{name} must be "):
        EngineSettings(**{name: value})


@pytest.mark.parametrize("name", NAMES)
def test_a_time_is_no_number_and_a_number_no_time(name):
    is_time = isinstance(getattr(EngineSettings(), name), timedelta)
    expected = r"a datetime\.timedelta, not 30" if is_time else "a whole number, not datetime"
    with pytest.raises(ConfigurationError, match=f"{name} must be {expected}"):
        EngineSettings(**{name: 30 if is_time else timedelta(seconds=30)})


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_may_be_small(name):
    assert getattr(EngineSettings(**{name: same_kind(name, 1)}), name) == same_kind(name, 1)


@pytest.mark.parametrize("number", [2**31, 10**20])
@pytest.mark.parametrize("name", [name for name in NAMES if same_kind(name, 1) == 1])
def test_a_number_that_is_too_large_is_refused_by_name(name, number):
    assert getattr(EngineSettings(**{name: 2**31 - 1}), name) == 2**31 - 1
    with pytest.raises(ConfigurationError, match=f"{name} must be at most 2147483647, not"):
        EngineSettings(**{name: number})


def test_a_lease_that_nobody_could_keep_is_refused():
    shortest = timedelta(milliseconds=100)
    assert EngineSettings(lease=shortest).lease == shortest
    with pytest.raises(ConfigurationError, match=r"lease must be at least 0\.1 s, not 0:00:00\.09"):
        EngineSettings(lease=timedelta(milliseconds=99))


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 0},
        {"concurrency": -1},
        {"concurrency": 2**31},
        {"max_pending": 2**31},
        {"timeout": timedelta()},
        {"timeout": timedelta(seconds=-1)},
        {"timeout": 10},
        {"retention": timedelta(seconds=-1)},
        {"retention": timedelta()},
        {"retention": 5},
        {"retry": 3},
    ],
    ids=str,
)
def test_a_method_that_could_never_run_is_refused_by_name(options):
    with pytest.raises(ConfigurationError, match=r"example\.v1\.Books/Print"):
        Method(name="example.v1.Books/Print", run=run, metadata_type="", **options)


def test_a_method_needs_no_limits_of_its_own():
    method = Method(name="example.v1.Books/Print", run=run, metadata_type="")
    assert (method.concurrency, method.timeout) == (None, None)
