"""The types of the command's parameters."""

import math
from datetime import timedelta

import click
import pytest

from outlast.cli.parameters import address_of_server, count, duration, engine_setting, header


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("1.5s", 1.5), ("250ms", 0.25), ("5m", 300), ("1h", 3600), ("never", math.inf)],
)
def test_a_duration_has_a_unit_or_is_in_seconds(text, seconds):
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-1", "1d", "1e3", "inf", "nan", "9" * 400, "\u0661s"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(click.BadParameter, match="not a duration"):
        duration(text)


def test_a_header_has_a_name_in_lower_case_and_may_have_colons_in_its_value():
    assert header("Authorization: Bearer a:b") == ("authorization", "Bearer a:b")


def test_a_setting_of_the_engine_is_a_count_or_a_duration():
    assert engine_setting("max_pending=500") == ("max_pending", 500)
    assert engine_setting("max_wait=1.5m") == ("max_wait", timedelta(seconds=90))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_pending", "NAME=VALUE"),
        ("nothing=1", r"^there is no setting 'nothing'\. The settings are:\n  concurrency, lease"),
        ("max_pendin=1", r"^there is no setting 'max_pendin'\. Did you mean max_pending\?$"),
        ("max_pending=0", "^max_pending: .* whole number"),
        ("max_pending=-1", "whole number"),
        ("max_pending=many", "whole number"),
        ("max_pending=\u0661", "whole number"),
        ("max_wait=0s", "^max_wait: must be more than 0"),
        ("max_wait=never", "must have an end"),
        ("max_wait=soon", "^max_wait: 'soon' is not a duration"),
    ],
)
def test_what_is_no_setting_of_the_engine_is_refused(text, message):
    with pytest.raises(click.BadParameter, match=message) as refused:
        engine_setting(text)
    assert all(len(line) <= 80 for line in refused.value.message.splitlines())


@pytest.mark.parametrize("text", ["x", "0", "-1", "1.5", "\u0661", ""])
def test_what_is_no_count_is_refused(text):
    with pytest.raises(click.BadParameter, match="not a whole number of at least 1"):
        count(text)


@pytest.mark.parametrize(
    "text", ["127.0.0.1:1", "[::1]:1", "unix:a.sock", "unix:///a.sock", "dns:///localhost:1"]
)
def test_what_grpc_takes_for_an_address_is_one(text):
    assert address_of_server(text) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http://127.0.0.1:1/", "leave out http://: give 127.0.0.1:1[.]"),
        ("grpc://", "leave out grpc://: give HOST:PORT[.]"),
        ("HTTPS://localhost:1", "leave out HTTPS://: give localhost:1, with --tls[.]"),
    ],
)
def test_a_url_is_no_address(text, message):
    with pytest.raises(click.BadParameter, match=message):
        address_of_server(text)
