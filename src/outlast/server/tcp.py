"""TCP ports to listen on: whether one is free, and how several processes share one."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from outlast.domain.errors import ConfigurationError

_MAX_PORT = 65535


def check_port(listen: str) -> None:
    """Raise ConfigurationError if nobody could listen on a host and port now. It blocks."""
    _bound(listen).close()


@contextmanager
def shared_port(listen: str) -> Iterator[str]:
    """Keep a port for processes that listen on it together; yield the address with its number.

    Port 0 takes a free one. Nobody else gets the port meanwhile, also while none of them
    listens, and no call comes here. Raises ConfigurationError if it cannot be had. It blocks.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigurationError("on this system no port can be shared: serve by one process")
    check_port(listen)  # by itself: to share it with what listens there already is not meant
    with _bound(listen, socket.SO_REUSEPORT) as kept:
        # It was for connections that are still being forgotten; now it would let others in.
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        yield f"{listen.rpartition(':')[0]}:{kept.getsockname()[1]}"


def in_use(listen: str, reason: str) -> ConfigurationError:
    """Return the error of an address that another one has, or nobody may have."""
    return ConfigurationError(
        f"cannot listen on {listen}: {reason}; end what listens there, or give another address"
    )


def _bound(listen: str, *options: int) -> socket.socket:
    """Return a socket that has an address, and does not listen."""
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
    bound = socket.socket(family, kind_of_socket, protocol)
    try:
        for option in (socket.SO_REUSEADDR, *options):
            bound.setsockopt(socket.SOL_SOCKET, option, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise in_use(listen, str(error.strerror)) from error
    return bound
