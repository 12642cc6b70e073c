"""A real pooler for tests, where one is installed."""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psycopg
from psycopg import conninfo

_START_SECONDS = 30
_NOBODY = "nobody"
"""Who runs it if we are root: it refuses to."""
_CONFIGURATION = """
[databases]
* = host={host} user={user}
[pgbouncer]
listen_addr =
unix_socket_dir = {folder}
pidfile = {folder}/pid
auth_type = any
pool_mode = transaction
server_round_robin = 1
default_pool_size = 4
max_client_conn = 200
"""


def program() -> str | None:
    """Return where PgBouncer is; None if it is not installed."""
    return shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")


class PgBouncer:
    """Lends four connections to a server for single transactions, by turns."""

    def __init__(self, url: str) -> None:
        self._server = conninfo.conninfo_to_dict(url)
        self._folder = Path(tempfile.mkdtemp(prefix="outlast-pgb-", dir="/tmp"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        text = _CONFIGURATION.format(folder=self._folder, **self._server)
        configuration = self._folder / "configuration"
        configuration.write_text(text, encoding="utf-8")
        command = [program(), "-q", configuration]
        if os.geteuid() == 0:
            user = pwd.getpwnam(_NOBODY)
            for path in (self._folder, configuration):
                os.chown(path, user.pw_uid, user.pw_gid)
            command += ["-u", _NOBODY]
        self._process = subprocess.Popen(
            command,  # type: ignore[arg-type]
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._await_start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._folder)

    def url(self, direct: str) -> str:
        """Return the URL of a database by way of the pooler."""
        database = quote(str(conninfo.conninfo_to_dict(direct)["dbname"]))
        host = quote(str(self._folder), safe="")
        return f"postgresql://{self._server['user']}@/{database}?host={host}&port=6432"

    def _await_start(self) -> None:
        end = time.monotonic() + _START_SECONDS
        while True:
            try:
                psycopg.connect(self.url("dbname=postgres")).close()
            except psycopg.OperationalError:
                assert time.monotonic() < end
                time.sleep(0.02)
            else:
                return
