"""Identifiers of operations: 122 random bits, that nobody can guess."""

import os
from uuid import UUID

_BYTES = 16
_DRAWN_AT_ONCE = 256


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
