"""A counter that all processes with a file share, and that moves with every commit.

It tells in a memory read, where a query would let every other thread run first,
whether records that were read before are still current.
"""

import mmap
import os
from pathlib import Path

_BYTES = 8


class Generation:
    """Eight bytes of a file beside the store, mapped into the memory of every process.

    A writer moves the number before it commits, under SQLite's write lock. So a reader
    that finds the number it knows, knows that nobody has committed since.
    """

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if os.fstat(descriptor).st_size < _BYTES:
                os.ftruncate(descriptor, _BYTES)
            self._memory = mmap.mmap(descriptor, _BYTES)
        finally:
            os.close(descriptor)
        # Aligned items of this width are read and written whole.
        self._counter = memoryview(self._memory).cast("Q")

    def read(self) -> int:
        """Return the number as it is now."""
        return self._counter[0]

    def move(self) -> None:
        """Move the number on. Only under the write lock."""
        self._counter[0] = (self._counter[0] + 1) % 2**64

    def close(self) -> None:
        """Let go of the memory."""
        self._counter.release()
        self._memory.close()
