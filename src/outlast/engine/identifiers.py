"""Identifiers of operations, 122 random bits that nobody can guess, and of workers."""

import os
import re
import secrets
import socket
from uuid import UUID

_BYTES = 16
_DRAWN_AT_ONCE = 256
_MAX_HOST_LENGTH = 63
"""As much as one label of a DNS name may have."""


def new_worker() -> str:
    """Return an identifier of a worker that says where it is: `host-pid-` and 32 random bits.

    So it was never used before, also where the pid is always the same, as in containers.
    """
    host = re.sub(r"[^A-Za-z0-9._-]", "_", socket.gethostname())[:_MAX_HOST_LENGTH]
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"


class Identifiers:
    """Makes UUIDs of version 4, drawing randomness in larger portions.

    Each draw is a system call during which other threads take the interpreter; made
    for every operation it would be the slowest part of starting one.
    """

    def __init__(self) -> None:
        self._random = b""

    def new(self) -> str:
        """Return an identifier that was never returned before."""
        if not self._random:
            self._random = os.urandom(_BYTES * _DRAWN_AT_ONCE)
        drawn, self._random = self._random[:_BYTES], self._random[_BYTES:]
        return str(UUID(bytes=drawn, version=4))
