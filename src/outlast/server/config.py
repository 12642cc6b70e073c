"""What a server is told."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from outlast.domain.checks import require, require_time
from outlast.domain.errors import ConfigurationError
from outlast.engine.settings import EngineSettings
from outlast.server.choice import Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """A certificate chain and its private key, in PEM files."""

    certificate: Path
    key: Path

    def __post_init__(self) -> None:
        for name in ("certificate", "key"):
            require(name, getattr(self, name), Path, "a pathlib.Path")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Where a server listens, what it keeps operations in, and how it ends."""

    store: str = field(default="outlast.db", repr=False)
    """A path to an SQLite file, made if it is not there; a `postgresql://` URL; or `memory:`."""
    store_direct: str | None = field(default=None, repr=False)
    """The database's own address, if `store` leads to a pooler of its transactions."""
    store_wait: timedelta = timedelta(seconds=60)
    """How long the start waits for a database that is not up yet."""
    listen: str | None = "127.0.0.1:50051"
    """`host:port`, `[v6 address]:port` or `unix:path`; port 0 takes a free one.

    None, for a worker only, does without.
    """
    share_port: bool = False
    """Whether other processes of the same user may listen on the same port.

    Each then answers a part of the connections: those that the system deals out to it.
    """
    tls: TlsFiles | None = None
    """None serves without encryption."""
    grace: timedelta = timedelta(seconds=20)
    """How long running operations may take to end when the server stops.

    With `cancel_grace` on top it is less than the 30 seconds that supervisors wait.
    """
    engine: EngineSettings = field(default_factory=EngineSettings)
    api: bool = True
    """Whether this process serves the API, or is a worker, of which callers see health only."""
    execute: bool = True
    """Whether this process runs operations, or only serves the API."""
    methods: Collection[str] | None = None
    """Those whose operations it runs, as `package.Service/Method`; None is all of its services."""
    except_methods: Collection[str] = ()
    """Those whose operations it leaves to others."""

    def __post_init__(self) -> None:
        require("store", self.store, str, "a str: the path to a file, a URL, or memory:")
        require("store_direct", self.store_direct, (str, type(None)), "a str: a URL")
        require_time("store_wait", self.store_wait, may_be_zero=True)
        require("listen", self.listen, (str, type(None)), "a str: host:port")
        require("api", self.api, bool, "True or False")
        require("share_port", self.share_port, bool, "True or False")
        require("tls", self.tls, (TlsFiles, type(None)), "outlast.TlsFiles, or None")
        require_time("grace", self.grace, may_be_zero=True)
        require("engine", self.engine, EngineSettings, "outlast.EngineSettings")
        Choice(self.execute, self.methods, self.except_methods)
        if not (self.api or self.execute):
            raise ConfigurationError("with api=False and execute=False there is nothing to do")
        if self.listen is None and self.api:
            raise ConfigurationError(
                "listen is None: only a worker, with api=False, can do without"
            )
        if self.listen is not None and ":" not in self.listen:
            raise ConfigurationError(f"listen must be host:port, not {self.listen!r}")
        if self.share_port and self.listen is not None and self.listen.startswith("unix:"):
            raise ConfigurationError("share_port: only a port can be shared, no socket file")
