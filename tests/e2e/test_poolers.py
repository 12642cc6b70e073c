"""Servers that reach their database through a pooler of transactions."""

import pytest
from outlastapi.script.v1 import script_pb2

from tests.postgresql_pooler import Pooler

NEVER = ("--lease", "1h", "--set", "poll_interval=1h", "--set", "waiter_poll_interval=1h")
"""Without a hint nothing happens within the test."""


@pytest.fixture
def direct(postgres_of):
    """Return the URL of an empty database, which is dropped when no process uses it any more."""
    postgres = postgres_of("18")
    url = postgres.new_database()
    yield url
    postgres.drop_for_good(url)


@pytest.fixture
def node(serve, direct):
    """Start servers on that database, by way of a pooler, whose address has the direct one too."""
    with Pooler(direct) as pooler:

        def node(*arguments):
            return serve(
                *("--store", pooler.url(direct), "--script", *NEVER, *arguments),
                OUTLAST_STORE_DIRECT=direct,
            )

        yield node


def test_a_waiting_call_hears_of_what_another_server_has_done(node):
    asked, works = node("--no-execute"), node()
    for number in range(20):
        name = asked.run_script({"answer": {"text": f"{number}"}})
        response = script_pb2.RunScriptResponse()
        assert asked.result(name).response.Unpack(response)
        assert response.text == f"{number}"
        assert works.get(name).done
    for server in (asked, works):
        server.terminate()
        assert server.process.wait(30) == 0
        assert "WARNING" not in server.log
        assert "ERROR" not in server.log
