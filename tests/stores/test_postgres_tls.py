"""The PostgreSQL store over TLS, and what its errors and its log keep to themselves."""

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from outlast.domain.errors import StoreOpenError
from outlast.engine.clock import SystemClock
from outlast.ports import Clock
from outlast.server.config import ServerConfig
from outlast.stores.postgres import PostgresStore
from tests.postgresql import CannotStartError, TcpPostgresServer, installations

TIMER = SystemClock()
HOST = "db.example"
PASSWORD = "hunter2%/@ä"
CREDENTIALS = "ada:hunter2%25%2F%40%C3%A4"


class Authority:
    """Who signs certificates."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.certificate = self._signed(self._name, self._key, x509.BasicConstraints(True, None))

    def issue(self, host: str) -> dict[str, str]:
        """Return the files of a server."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(host)])
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return {
            "server.crt": self._signed(x509.Name([]), key, names),
            "server.key": private.decode(),
        }

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType
    ) -> str:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(extension, critical=True)
        )
        certificate = builder.sign(self._key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM).decode()


class Impatient(SystemClock):
    """A clock of who must not have to wait."""

    def sleep(self, seconds: float) -> Any:
        raise AssertionError(seconds)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("the right one")


@pytest.fixture(scope="module")
def start(lacking: Callable[[str], Any]) -> Iterator[Callable[..., TcpPostgresServer]]:
    """Return what starts a server that knows ada and her password."""
    servers: list[TcpPostgresServer] = []

    def start(programs: Path, files: dict[str, str]) -> TcpPostgresServer:
        try:
            server = TcpPostgresServer(programs, files).__enter__()
        except CannotStartError as error:
            lacking(f"PostgreSQL does not start on a port: {error}")
        servers.append(server)
        server.execute(f"CREATE ROLE ada LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def server(authority: Authority, start: Callable[..., TcpPostgresServer]) -> TcpPostgresServer:
    """Return a server that speaks TLS, as Debian's does and that of the packages does not."""
    if (programs := installations().get("15")) is None:
        pytest.skip("PostgreSQL 15, which speaks TLS, is not installed")
    return start(programs, authority.issue(HOST))


@pytest.fixture
def trusted(authority: Authority, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Return what makes the parameters of a client that trusts the right authority, or another."""

    def trusted(signer: Authority = authority) -> dict[str, str]:
        path = tmp_path / "root.crt"
        path.write_text(signer.certificate, encoding="utf-8")
        return {"sslmode": "verify-full", "sslrootcert": str(path)}

    return trusted


async def opened(url: str, timer: Clock = TIMER) -> str:
    """Open a store; return how its connections are encrypted."""
    patience = timedelta(hours=1)
    async with PostgresStore.open(url, timer=timer, patience=patience) as store:
        async with store._database.transaction() as transaction:
            cursor = await transaction.execute(
                "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            )
            ((version,),) = await cursor.fetchall()
        return version


async def refusal(url: str) -> str:
    """Return why a store is not opened: at once, for waiting does not mend it."""
    with pytest.raises(StoreOpenError) as refused:
        await opened(url, Impatient())
    texts, error = [], refused.value
    while error is not None:
        texts.append(f"{error!s} {error!r}")
        error = error.__cause__ or error.__context__
    assert not any(secret in text for text in texts for secret in ("hunter", PASSWORD))
    return refused.value.message


@pytest.fixture(autouse=True)
def no_secret_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert "hunter" not in caplog.text


async def test_the_right_authority_and_host_connect(server, trusted):
    assert await opened(server.tcp_url(CREDENTIALS, HOST, **trusted())) == "TLSv1.3"


async def test_a_certificate_of_another_authority_is_refused(server, trusted):
    other = trusted(Authority("another one"))
    message = await refusal(server.tcp_url(CREDENTIALS, HOST, **other))
    assert "certificate verify failed" in message


async def test_another_host_name_is_refused(server, trusted):
    message = await refusal(server.tcp_url(CREDENTIALS, "db2.example", **trusted()))
    assert 'server certificate for "db.example"' in message
    assert 'does not match host name "db2.example"' in message


async def test_authorities_that_are_missing_are_told(server, tmp_path):
    parameters = {"sslmode": "verify-full", "sslrootcert": str(tmp_path / "none.crt")}
    message = await refusal(server.tcp_url(CREDENTIALS, HOST, **parameters))
    assert f'root certificate file "{tmp_path / "none.crt"}" does not exist' in message


async def test_a_server_without_tls_is_refused(start, trusted):
    plain = start(installations()["18"], {})
    message = await refusal(plain.tcp_url(CREDENTIALS, HOST, **trusted()))
    assert "server does not support SSL, but SSL was required" in message


async def test_a_wrong_password_is_refused(server, trusted):
    message = await refusal(server.tcp_url("ada:hunter3", HOST, **trusted()))
    assert 'password authentication failed for user "ada"' in message


async def test_a_database_that_is_not_there_is_refused(server, trusted):
    url = server.tcp_url(CREDENTIALS, HOST, **trusted()).replace("/postgres?", "/elsewhere?")
    assert 'database "elsewhere" does not exist' in await refusal(url)


def test_a_configuration_does_not_show_it():
    url = f"postgresql://{CREDENTIALS}@db.example/jobs"
    assert "hunter" not in repr(ServerConfig(store=url, store_direct=url))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:hunter%zz@db.example/jobs",
        "postgresql://ada:hu@nter2@db.example/jobs",
        "postgresql://ada:5432/hunter2@db.example/jobs",
        "postgresql://ada:54?hu@nter2@db.example/jobs",
        "postgresql://ada:54#hu@nter2@db.example/jobs",
        "postgresql://ada:54?hunter2/jobs",
        "postgresql://ada:hunter2/jobs",
        "postgresql://ada@db.example/jobs?pasword=hunter2",
    ],
)
async def test_a_password_that_is_taken_for_something_else_is_not_shown(url):
    message = await refusal(url)
    assert "nter2" not in message
    assert "write special characters of the password as %XX" in message
