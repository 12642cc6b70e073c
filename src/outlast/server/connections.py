"""The connections that callers have made, which gRPC keeps to itself."""

import os
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote


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
        here = handle.getsockname()
    except OSError:  # it listens, or its caller is gone
        return False
    kind, _, rest = address.partition(":")
    if kind == "unix":
        return handle.family is socket.AF_UNIX and os.fsdecode(here) == unquote(rest)
    return isinstance(here, tuple) and here[1] == int(address.rpartition(":")[2])
