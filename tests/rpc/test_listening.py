"""A server that cannot listen says what is wrong, and with what."""

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
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
