"""A server that cannot listen says what is wrong, and with what."""

import asyncio
import fcntl
import os
import socket
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health_pb2, health_pb2_grpc
from outlastapi.script.v1 import script_pb2_grpc

import outlast
from outlast_script import ScriptService


async def refusal(**config) -> str:
    config = outlast.ServerConfig(store="memory:", **config)
    with pytest.raises(outlast.ConfigurationError) as refused:
        async with outlast.Server(services=[ScriptService()], config=config):
            pass
    return str(refused.value)


async def test_an_address_in_use_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert f"cannot listen on {address}: Address already in use" in await refusal(
            listen=address
        )


async def test_a_host_that_is_not_there_is_not_called_an_address_in_use():
    assert "there is no such host" in await refusal(listen="no.such.host.invalid:0")
    assert "Cannot assign requested address" in await refusal(listen="192.0.2.1:0")


async def test_a_port_that_is_none_is_refused():
    for port in ("70000", "nonsense", ""):
        assert "the port must be a number" in await refusal(listen=f"127.0.0.1:{port}")


async def test_a_folder_that_is_missing_is_named(tmp_path):
    assert f"there is no folder {tmp_path}/nowhere" in await refusal(
        listen=f"unix:{tmp_path}/nowhere/socket"
    )


async def test_a_socket_file_that_a_server_answers_on_is_not_taken_over(tmp_path):
    listen = f"unix:{tmp_path}/a%20socket"
    config = outlast.ServerConfig(store="memory:", listen=listen)
    async with outlast.Server(services=[ScriptService()], config=config) as first:
        assert f"cannot listen on {listen}: Address already in use" in await refusal(listen=listen)
        assert await answers(first)
    assert list(tmp_path.iterdir()) == []


async def test_a_socket_file_whose_waiting_line_is_full_is_not_taken_over(tmp_path):
    with closing(socket.socket(socket.AF_UNIX)) as busy, ExitStack() as waiting:
        busy.bind(f"{tmp_path}/socket")
        busy.listen(0)
        for _ in range(2):
            caller = waiting.enter_context(closing(socket.socket(socket.AF_UNIX)))
            caller.setblocking(False)
            caller.connect_ex(f"{tmp_path}/socket")
        assert "Address already in use" in await refusal(listen=f"unix:{tmp_path}/socket")


async def test_a_socket_file_that_a_dead_server_has_left_is_replaced(tmp_path):
    with closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(f"{tmp_path}/socket")
    config = outlast.ServerConfig(store="memory:", listen=f"unix:{tmp_path}/socket")
    async with outlast.Server(services=[ScriptService()], config=config) as server:
        assert await answers(server)


async def test_of_servers_that_ask_for_a_socket_file_at_once_one_gets_it(tmp_path):
    config = outlast.ServerConfig(store="memory:", listen=f"unix:{tmp_path}/socket")
    servers = [outlast.Server(services=[ScriptService()], config=config) for _ in range(8)]
    starts = [server.__aenter__() for server in servers]
    results = await asyncio.gather(*starts, return_exceptions=True)
    started = [result for result in results if isinstance(result, outlast.Server)]
    refused = [result for result in results if isinstance(result, outlast.ConfigurationError)]
    try:
        assert (len(started), len(refused)) == (1, 7)
        assert await answers(started[0])
    finally:
        for server in started:
            await server.__aexit__(None, None, None)


async def test_a_server_that_waits_for_another_to_bind_finds_its_socket_file(tmp_path, monkeypatch):
    flock = fcntl.flock
    with closing(socket.socket(socket.AF_UNIX)) as other, closing(Folder(tmp_path)) as folder:

        def bind_meanwhile(descriptor: int, operation: int) -> None:
            with pytest.raises(BlockingIOError):
                flock(descriptor, operation | fcntl.LOCK_NB)
            other.bind(f"{tmp_path}/socket")
            other.listen()
            folder.unlock()
            flock(descriptor, operation)

        monkeypatch.setattr(fcntl, "flock", bind_meanwhile)
        assert "Address already in use" in await refusal(listen=f"unix:{tmp_path}/socket")


class Folder:
    """A folder that is locked, as by a server that is about to bind a socket file in it."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self._flock = fcntl.flock
        self._flock(self._descriptor, fcntl.LOCK_EX)

    def unlock(self) -> None:
        self._flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._descriptor)


async def test_a_socket_file_whose_name_is_too_long_is_refused(tmp_path):
    assert "too long" in await refusal(listen=f"unix:{tmp_path}/{'x' * 100}")


async def answers(server: outlast.Server) -> bool:
    async with grpc.aio.insecure_channel(server.address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        answer = await check(health_pb2.HealthCheckRequest(), timeout=20)
    return answer.status == health_pb2.HealthCheckResponse.SERVING


def key_and_certificate(folder: Path, name: str) -> outlast.TlsFiles:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    files = outlast.TlsFiles(certificate=folder / f"{name}.crt", key=folder / f"{name}.key")
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


async def test_tls_files_that_are_none_are_named(tmp_path):
    good, other = key_and_certificate(tmp_path, "good"), key_and_certificate(tmp_path, "other")
    text = tmp_path / "text"
    text.write_text("no certificate")
    for certificate, key, message in (
        (text, good.key, f"{text} holds no certificate"),
        (good.certificate, text, f"{text} holds no private key"),
        (good.certificate, other.key, f"the key in {other.key} is not that of {good.certificate}"),
        (tmp_path / "absent", good.key, f"cannot read {tmp_path}/absent"),
    ):
        files = outlast.TlsFiles(certificate=certificate, key=key)
        assert message in await refusal(listen="127.0.0.1:0", tls=files)


async def test_the_generated_servicer_itself_is_not_served():
    config = outlast.ServerConfig(store="memory:", listen="127.0.0.1:0")
    with pytest.raises(outlast.ConfigurationError, match="extend it, and write its methods"):
        async with outlast.Server(
            services=[script_pb2_grpc.ScriptServiceServicer()], config=config
        ):
            pass
