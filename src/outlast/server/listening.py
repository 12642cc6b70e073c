"""What a server listens on: checked before gRPC is, which says less about what is wrong."""

import asyncio
import errno
import fcntl
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from outlast.domain.errors import ConfigurationError
from outlast.server.config import TlsFiles
from outlast.server.tcp import check_port, in_use

_NOBODY = {errno.ENOENT, errno.ECONNREFUSED}
"""What it says of a socket file that is not there, or that nobody answers on."""


@asynccontextmanager
async def free_address(listen: str) -> AsyncIterator[None]:
    """Let the block bind an address; raise ConfigurationError if nobody could now.

    No other server takes the same socket file meanwhile, if it asks here first.
    """
    kind, _, rest = listen.partition(":")
    if kind != "unix":
        await asyncio.to_thread(check_port, listen)
        yield
        return
    path = Path(unquote(rest))  # as gRPC reads it
    folder = _open_folder(listen, path)
    try:
        await asyncio.to_thread(fcntl.flock, folder, fcntl.LOCK_EX)
        _check_socket(listen, path)
        yield
    finally:
        os.close(folder)


def _open_folder(listen: str, path: Path) -> int:
    """Open the folder of a socket file: those who bind one in it lock it one after the other."""
    folder = path.absolute().parent
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"cannot listen on {listen}: there is no folder {folder}"
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {listen}: {folder}: {error.strerror}"
        ) from error


def _check_socket(listen: str, path: Path) -> None:
    """Refuse a socket file that somebody answers on: gRPC would take it over.

    One that nobody answers on is left over from a server that was killed, and gRPC replaces it.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # one who has too many callers waiting answers at once, too
        try:
            taken = probe.connect_ex(os.fsencode(path)) not in _NOBODY
        except OSError as error:
            raise ConfigurationError(f"cannot listen on {listen}: {error}") from error
    if taken:
        raise in_use(listen, os.strerror(errno.EADDRINUSE))


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
