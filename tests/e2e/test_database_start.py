"""Servers and workers that are started before their database."""

import signal
import subprocess
import sys

import pytest

from tests.postgresql import CannotStartError, PostgresServer, installations

WAITING = "waiting up to"


@pytest.fixture
def database(lacking):
    """Return a server that is stopped."""
    try:
        server = PostgresServer(installations()["18"]).__enter__()
    except (CannotStartError, KeyError) as error:
        lacking(f"PostgreSQL 18 does not start: {error}")
    server.halt()
    yield server
    server.stop()


@pytest.fixture
def start(database):
    """Start processes on that database; what still runs in the end is killed."""
    processes = []

    def start(role, *arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "outlast", role, "--store", database.url(), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_a_server_waits_for_its_database(start, database):
    process = start("serve", "--script", "--listen", "127.0.0.1:0")
    assert f"{WAITING} 60 s for postgresql://" in process.stderr.readline()
    database.start()
    assert process.stdout.readline().startswith("Ready at 127.0.0.1:")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("role", ["serve", "worker"])
def test_who_waits_for_a_database_can_be_stopped(start, role, number):
    process = start(role, "--script", "--store-wait", "1h")
    assert f"{WAITING} 3600 s" in process.stderr.readline()
    process.send_signal(number)
    output, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert output == ""
    assert "told to stop before the start was over" in log
    assert "Error" not in log


def test_a_database_that_does_not_come_up_ends_the_start(start):
    process = start("serve", "--script", "--store-wait", "100ms")
    _, log = process.communicate(timeout=30)
    assert process.returncode == 8
    assert WAITING in log
    assert "cannot be used after" in log
