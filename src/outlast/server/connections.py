"""The sockets of a server, which gRPC keeps to itself."""

import os
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote


def stop_listening(address: str) -> None:
    """Refuse further connections to an address where we listen; those that are made stay.

    It blocks. gRPC takes it for an error and says so in its log, but has no other way.
    """
    for handle in _sockets():
        with handle, suppress(OSError):  # it was closed by now
            if handle.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and _is_at(
                address, handle
            ):
                handle.shutdown(socket.SHUT_RDWR)


def connections_to(address: str) -> Sequence[socket.socket]:
    """Return a handle, to be closed, of each connection made to an address where we listen.

    It blocks.
    """
    made: list[socket.socket] = []
    for handle in _sockets():
        if _was_made_to(address, handle):
            made.append(handle)
        else:
            handle.close()
    return made


def _sockets() -> Iterator[socket.socket]:
    """Yield a handle of each socket of this process, whoever opened it here."""
    for file in Path("/dev/fd").iterdir():
        descriptor = int(file.name)
        with suppress(OSError):  # it was closed by now
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                yield socket.socket(fileno=os.dup(descriptor))


def _was_made_to(address: str, handle: socket.socket) -> bool:
    try:
        handle.getpeername()
        return _is_at(address, handle)
    except OSError:  # it listens, or its caller is gone
        return False


def _is_at(address: str, handle: socket.socket) -> bool:
    here = handle.getsockname()
    kind, _, rest = address.partition(":")
    if kind == "unix":
        return handle.family is socket.AF_UNIX and os.fsdecode(here) == unquote(rest)
    return isinstance(here, tuple) and here[1] == int(address.rpartition(":")[2])
