"""What goes between a server and the processes that work for it: pickles, their size first."""

import pickle
from typing import Any

SIZE_BYTES = 8
"""In so many bytes stands how long a pickle is."""


class Pickled:
    """A value as a pickle, of which no more is kept than may be sent.

    One over the limit has a size and nothing else: whoever is told of it refuses it.
    """

    def __init__(self, value: object, limit: int) -> None:
        self.size = 0
        self._limit = limit
        self._pieces: list[bytes] = []
        pickle.Pickler(self).dump(value)

    @property
    def fits(self) -> bool:
        """Whether it may be sent."""
        return self.size <= self._limit

    @property
    def pieces(self) -> list[bytes]:
        """What to send, piece by piece."""
        return [self.size.to_bytes(SIZE_BYTES), *self._pieces]

    @property
    def value(self) -> bytes:
        """The whole pickle."""
        return b"".join(self._pieces)

    def write(self, data: Any) -> None:
        """Take a piece from the pickler."""
        self.size += memoryview(data).nbytes
        if self.fits:
            self._pieces.append(bytes(data))  # bytes, mostly, which are not copied
        else:
            self._pieces.clear()
