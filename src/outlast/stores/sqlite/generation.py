"""What all processes with a file share in memory: a counter of commits, a time, and hints.

The counter tells in a memory read, where a query would let every other thread run
first, whether records that were read before are still current.
"""

import errno
import mmap
import os
from datetime import datetime
from pathlib import Path
from stat import S_ISREG

from outlast.domain.errors import StoreOpenError
from outlast.ports import FARTHEST_AHEAD
from outlast.stores.rows import from_micros, to_micros
from outlast.stores.sqlite.hints import WORDS as _WORDS_OF_HINTS
from outlast.stores.sqlite.hints import Hints

_NUMBERS = 2
_BYTES = 8 * (_NUMBERS + _WORDS_OF_HINTS)
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_NO_FILE = {errno.EISDIR, errno.ELOOP, errno.ENXIO}
"""What it says of a folder, a link and a socket."""
_LAST_SECOND = 253_402_300_799
"""The end of the calendar, in seconds since 1970; as microseconds it is a day of that January."""


class Generation:
    """A small file beside the store, mapped into the memory of every process.

    A writer moves the number before it commits, under SQLite's write lock. So a reader
    that finds the number it knows, knows that nobody has committed since.
    """

    def __init__(self, path: Path) -> None:
        """Open a file, made if it is not there.

        Raises StoreOpenError if it is none, and OSError if it cannot be opened or made.
        """
        try:
            descriptor = os.open(path, _FLAGS, 0o644)
        except OSError as error:
            if error.errno in _NO_FILE:
                raise _refusal(path) from error
            raise
        try:
            if not S_ISREG(os.fstat(descriptor).st_mode):
                raise _refusal(path)
            _fill(descriptor, path)
            self._memory = mmap.mmap(descriptor, _BYTES)
        finally:
            os.close(descriptor)
        # Aligned items of this width are read and written whole.
        self._words = memoryview(self._memory).cast("Q")
        self._counter = self._words[:_NUMBERS]
        self.hints = Hints(self._words[_NUMBERS:])
        """What the processes tell one another."""

    def read(self) -> int:
        """Return the number as it is now."""
        return self._counter[0]

    def move(self) -> None:
        """Move the number on. Only under the write lock."""
        self._counter[0] = (self._counter[0] + 1) % 2**64

    def latest_time(self) -> datetime | None:
        """Return the latest time that `reach` was told, None if none is known."""
        kept = self._counter[1]
        if kept <= _LAST_SECOND:  # earlier versions kept whole seconds
            kept *= 1_000_000
        try:
            return from_micros(kept) if kept else None
        except OverflowError:  # no time that anybody told
            return None

    def reach(self, moment: datetime) -> None:
        """Keep a time, if none that is later is kept. Only under the write lock.

        A kept time that is more than FARTHEST_AHEAD later was wrong, and is overwritten.
        """
        kept = self.latest_time()
        if kept is None or not moment <= kept <= moment + FARTHEST_AHEAD:
            self._counter[1] = to_micros(moment) or 0

    def close(self) -> None:
        """Let go of the memory."""
        self.hints.close()
        self._counter.release()
        self._words.release()
        self._memory.close()


def _fill(descriptor: int, path: Path) -> None:
    """Have the disk keep room for the bytes: who writes to mapped memory without it is killed.

    They are appended, so that who does it at the same moment overwrites nothing.
    """
    try:
        while os.fstat(descriptor).st_size < _BYTES:  # a disk that is almost full takes a part
            os.write(descriptor, bytes(_BYTES))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _refusal(path: Path) -> StoreOpenError:
    return StoreOpenError(f"{path} is not a regular file; remove it")
