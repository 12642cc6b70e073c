"""What a server listens on: checked before gRPC is, which says less about what is wrong."""

import socket
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from outlast.domain.errors import ConfigurationError
from outlast.server.config import TlsFiles

_MAX_PORT = 65535


def check_address(listen: str) -> None:
    """Raise ConfigurationError if nobody could listen on an address now. It blocks."""
    kind, _, path = listen.partition(":")
    if kind == "unix":
        folder = Path(path).absolute().parent
        if not folder.is_dir():
            raise ConfigurationError(f"cannot listen on {listen}: there is no folder {folder}")
        return
    host, _, port = listen.rpartition(":")
    if not port.isdecimal() or int(port) > _MAX_PORT:
        raise ConfigurationError(
            f"cannot listen on {listen}: the port must be a number from 0 to {_MAX_PORT}"
        )
    try:
        candidates = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigurationError(f"cannot listen on {listen}: there is no such host") from error
    family, kind_of_socket, protocol, _, address = candidates[0]
    with socket.socket(family, kind_of_socket, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {listen}: {error.strerror}; end what listens there, "
                "or give another address"
            ) from error


def credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    """Read a certificate and its key; raise ConfigurationError if they are of no use."""
    certificates, key = _read(tls.certificate), _read(tls.key)
    try:
        chain = x509.load_pem_x509_certificates(certificates)
    except ValueError as error:
        raise ConfigurationError(f"{tls.certificate} holds no certificate in PEM form") from error
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"{tls.key} holds no private key in PEM form, or one with a password"
        ) from error
    if private.public_key() != chain[0].public_key():
        raise ConfigurationError(f"the key in {tls.key} is not that of {tls.certificate}")
    return grpc.ssl_server_credentials([(key, certificates)])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read {error.filename}: {error.strerror}") from error
