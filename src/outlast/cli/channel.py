"""A channel to the server, and what its errors mean to the person at the command line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import grpc
from cryptography.x509 import load_pem_x509_certificates
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status

from outlast.cli.connection import Connection
from outlast.cli.exit_codes import ExitCode
from outlast.cli.failure import Failure, InvalidArgumentFailure, TransientFailure
from outlast.cli.status import describe, fields_at_fault
from outlast.domain.status import Code

_TLS_FAILED = re.compile("handshake failed", re.IGNORECASE)
_SPEAKS_NO_TLS = re.compile("WRONG_VERSION_NUMBER")
_NO_TLS = "it does not speak TLS: leave out --tls and --ca-cert"
_NOT_VOUCHED_FOR = "has it a certificate for this name that --ca-cert or the system vouches for?"

MAX_MESSAGE_BYTES = 256 * 1024 * 1024

MAX_RECONNECT_DELAY_MILLISECONDS = 2000

_STATUS_TRAILER = "grpc-status-details-bin"
_ADVICE = {
    Code.UNAUTHENTICATED: "give credentials, such as -H 'authorization: Bearer …'",
    Code.PERMISSION_DENIED: "ask for access, or give other credentials with -H",
    Code.UNIMPLEMENTED: "the server does not offer this; is it the right --address?",
    Code.DEADLINE_EXCEEDED: "try again, or allow more with --timeout",
}


@contextmanager
def open_channel(connection: Connection) -> Iterator[grpc.Channel]:
    """Open a channel; it connects when it is first used."""
    options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        # Who waits for a server that is away asks again more often than gRPC would.
        ("grpc.max_reconnect_backoff_ms", MAX_RECONNECT_DELAY_MILLISECONDS),
    ]
    if connection.tls:
        roots = _authorities(connection.ca_cert) if connection.ca_cert else None
        credentials = grpc.ssl_channel_credentials(roots)
        channel = grpc.secure_channel(connection.address, credentials, options)
    else:
        channel = grpc.insecure_channel(connection.address, options)
    with channel:
        yield channel


def _authorities(file: Path) -> bytes:
    """Return the certificates in a file; gRPC would take a broken one for a server away."""
    try:
        content = file.read_bytes()
        load_pem_x509_certificates(content)
    except OSError as error:
        raise Failure(ExitCode.USAGE, f"--ca-cert: cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise Failure(
            ExitCode.USAGE, f"--ca-cert: {file} holds no certificates in PEM", str(error)
        ) from error
    return content


def routed(connection: Connection, **fields: str) -> tuple[tuple[str, str], ...]:
    """Return the headers of a call; by fields of its request routers find the server (AIP-4222)."""
    parameters = "&".join(f"{field}={quote(value, safe='')}" for field, value in fields.items())
    return (*connection.headers, ("x-goog-request-params", parameters))


@contextmanager
def rpc_errors_reported(connection: Connection) -> Iterator[None]:
    """Turn an error of an RPC into a Failure that says what to do."""
    try:
        yield
    except grpc.RpcError as error:
        raise _failure(error, connection) from error


def _failure(error: grpc.RpcError, connection: Connection) -> Failure:
    status = _status_of(error)
    text = describe(status)
    if status.code == Code.UNAVAILABLE and not status.details:
        return _unreachable(status.message, connection)
    advice = _ADVICE.get(Code(status.code), "")
    if status.code == Code.NOT_FOUND:
        return Failure(ExitCode.NOT_FOUND, text.line, *text.details, advice)
    if status.code == Code.INVALID_ARGUMENT:
        return InvalidArgumentFailure(
            ExitCode.RPC_ERROR, text.line, *text.details, fields=fields_at_fault(status)
        )
    if status.code == Code.DEADLINE_EXCEEDED:
        line = f"no answer in time from {connection.address}: {text.line}"
        return TransientFailure(ExitCode.TIMEOUT, line, *text.details, advice)
    if status.code == Code.UNAVAILABLE:
        return TransientFailure(ExitCode.RPC_ERROR, text.line, *text.details, advice)
    return Failure(ExitCode.RPC_ERROR, text.line, *text.details, advice)


def _unreachable(reason: str, connection: Connection) -> Failure:
    line = f"no server at {connection.address}: start one with 'outlast serve', or give --address"
    advice = "" if connection.tls else "if the server speaks TLS, give --tls or --ca-cert"
    if _TLS_FAILED.search(reason):
        line = f"TLS failed with the server at {connection.address}"
        advice = _NO_TLS if _SPEAKS_NO_TLS.search(reason) else _NOT_VOUCHED_FOR
    return TransientFailure(ExitCode.UNREACHABLE, line, reason, advice)


def _status_of(error: grpc.RpcError) -> Status:
    """Return the status with its details, if the server sent it whole."""
    code: int = error.code().value[0]
    for trailer in error.trailing_metadata() or ():
        if trailer.key == _STATUS_TRAILER and isinstance(trailer.value, bytes):
            try:
                status = Status.FromString(trailer.value)
            except DecodeError:
                break
            if status.code == code:
                return status
    return Status(code=code, message=error.details() or "")
