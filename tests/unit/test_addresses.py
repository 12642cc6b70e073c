"""How addresses of databases are shown."""

import pytest

from outlast.stores.addresses import described, is_conninfo


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@db.example:5433/jobs", "postgresql://me@db.example:5433/jobs"),
        ("postgresql:///jobs?host=/run/pg&password=secret", "postgresql:///run/pg/jobs"),
        ("postgresql://me@[::1]/jobs?sslpassword=secret", "postgresql://me@[::1]/jobs"),
        ("postgresql://me:secret/jobs", "postgresql://…"),
        ("postgresql://me:5432/secret@db.example/jobs", "postgresql://…"),
        ("postgres://me:sec%3Aret@db/", "postgres://me@db/"),
    ],
)
def test_an_address_is_shown_without_what_is_secret(url, shown):
    assert described(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:2024#hidden@127.0.0.1:1/jobs",
        "postgresql://me:77?hidden@127.0.0.1:1/jobs",
        "postgresql://me:77?hidden/jobs",
        "postgresql://me:77?hid@den@db/jobs",
        "postgresql://me:77#hid/den@db/jobs",
        "postgresql://me:77/hidden@db/jobs",
        "postgresql://me:77@hidden@db/jobs",
        "postgresql://db/jobs&password=hidden",
        "postgresql://db&password=hidden/jobs",
    ],
)
def test_nothing_that_may_be_a_part_of_a_password_is_shown(url):
    assert not any(part in described(url) for part in ("2024", "77", "hid", "den"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host=db password=secret", True),
        ("password = secret", True),
        ("port=1\tdbname=jobs", True),
        ("outlast.db", False),
        ("./host=db", False),
        ("data/key=value.db", False),
        ("memory:", False),
    ],
)
def test_key_words_of_libpq_are_told_from_the_name_of_a_file(text, expected):
    assert is_conninfo(text) is expected
