"""Settings of the whole test suite."""

import os
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

import grpc
import pytest
from blockbuster import BlockBuster
from hypothesis import settings

from tests.postgresql import CannotStartError, PostgresServer, installations

pytest.register_assert_rewrite("outlast.testing")

settings.register_profile("dev", max_examples=60, stateful_step_count=50, deadline=None)
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(scope="session", autouse=True)
def grpc_for_good() -> None:
    """Have gRPC set itself up once: it tears down with its last object, which blocks the loop."""
    grpc.aio.init_grpc_aio()


@pytest.fixture(scope="session")
def lacking() -> Callable[[str], NoReturn]:
    """Return what ends a test that this machine lacks something for: CI must lack nothing."""
    return pytest.fail if os.environ.get("CI") else pytest.skip


@pytest.fixture(scope="session")
def postgres_of(lacking: Callable[[str], NoReturn]) -> Iterator[Callable[[str], PostgresServer]]:
    """Return what starts a PostgreSQL server of a version, once.

    15 is Debian's, where it is installed; 18 comes with the packages for the tests.
    """
    servers: dict[str, PostgresServer] = {}

    def start(version: str) -> PostgresServer:
        if version not in servers:
            programs = installations().get(version)
            if programs is None:
                missing = f"PostgreSQL {version} is not installed"
                pytest.skip(missing) if version == "15" else lacking(missing)
            try:
                servers[version] = PostgresServer(programs).__enter__()
            except CannotStartError as error:
                lacking(f"PostgreSQL {version} does not start: {error}")
        return servers[version]

    yield start
    for server in servers.values():
        server.stop()


@pytest.fixture(scope="session", params=["15", "18"])
def postgres(
    request: pytest.FixtureRequest, postgres_of: Callable[[str], PostgresServer]
) -> PostgresServer:
    """Return a PostgreSQL server of each version."""
    return postgres_of(request.param)


@pytest.fixture(autouse=True)
def no_blocking() -> Iterator[None]:
    """Fail what blocks the event loop with anything that Outlast calls.

    `outlast` stands for its services too, whose folders begin with the same word. The
    SQLite store reads single rows on the loop on purpose: that takes microseconds, where
    a thread would take ten times as long.
    """
    detector = BlockBuster(scanned_modules=["outlast"], excluded_modules=["outlast.testing"])
    for name, function in detector.functions.items():
        if name.startswith("sqlite3."):
            function.can_block_predicate = _called_by_sqlite_store
    # What measures the coverage sees each line, of every thread.
    detector.functions["threading.Lock.acquire"].can_block_in("coverage/collector.py", "lock_data")
    detector.activate()
    yield
    detector.deactivate()


def _called_by_sqlite_store(*_args: object, **_options: object) -> bool:
    frame = sys._getframe()
    while frame is not None:
        if "/outlast/stores/sqlite/" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False
