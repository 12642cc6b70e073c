"""How addresses of databases are shown."""

import pytest

from outlast.stores.addresses import described


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
