"""The identifiers of workers: they say where, and are never used again."""

import os
import re
import socket

import pytest

from outlast.engine.identifiers import new_worker


def test_a_worker_is_called_by_its_host_and_process_and_never_the_same_twice():
    host = re.sub(r"[^A-Za-z0-9._-]", "_", socket.gethostname())[:63]
    workers = {new_worker() for _ in range(50)}
    assert len(workers) == 50
    for worker in workers:
        assert re.fullmatch(rf"{re.escape(host)}-{os.getpid()}-[0-9a-f]{{8}}", worker)


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("node-1.example", "node-1.example"),
        ("n\udce4chste \x1b[1m", "n_chste___1m"),
        ("h" * 300, "h" * 63),
        ("", ""),
    ],
)
def test_a_host_of_any_name_makes_short_plain_text(monkeypatch, host, shown):
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    assert re.fullmatch(rf"{re.escape(shown)}-\d+-[0-9a-f]{{8}}", new_worker())
