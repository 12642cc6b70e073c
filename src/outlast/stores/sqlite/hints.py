"""What processes with a file tell one another: which rows they have changed last.

It is told in memory that they share, because that costs a writer next to nothing and
who listens does not have to ask the file, which says that it has changed but not what.
"""

import secrets
from collections.abc import Collection, Sequence

_SLOTS = 4096
WORDS = 3 + 2 * _SLOTS
"""How many words of 64 bits the memory has."""

_WRITTEN, _COMMITTED, _LATEST_VISITOR, _FIRST_SLOT = range(4)
_MODULUS = 2**64
_FAR = 2**32
"""A number that seems to be further behind than this is in truth ahead, or garbage."""


class Hints:
    """A ring of row ids, two counters of all that were ever put into it, and who was here last.

    A writer puts down what it changes under SQLite's write lock, and says so when it has
    committed. Hints may be lost, as when a process dies in between, and the memory may
    hold anything in the beginning: what is then said is wrong, but harmless.
    """

    def __init__(self, words: memoryview) -> None:
        if (words[_WRITTEN] - words[_COMMITTED]) % _MODULUS > _SLOTS:
            words[_COMMITTED] = words[_WRITTEN]  # garbage, or nothing that anybody needs
        self._words = words
        self._process = secrets.randbits(64)
        self._end = words[_COMMITTED]
        self._heard = words[_COMMITTED]

    def put(self, rows: Sequence[int]) -> None:
        """Put down the rows that are about to be committed. Only under the write lock."""
        words = self._words
        start = words[_WRITTEN]
        # Said before it is done: who reads meanwhile sees that it may be overwritten.
        words[_WRITTEN] = self._end = (start + len(rows)) % _MODULUS
        for number, row in enumerate(rows, start):
            slot = _slot(number)
            words[slot], words[slot + 1] = self._process, row

    def committed(self) -> None:
        """Say that what was put down is there to be read, with all that was before it."""
        if (self._words[_COMMITTED] - self._end) % _MODULUS > _FAR:  # else another one was quicker
            self._words[_COMMITTED] = self._end

    def news(self) -> Collection[int] | None:
        """Return the rows that others have changed since the last call; None if any may have."""
        words, heard = self._words, self._heard
        end = words[_COMMITTED]
        if (heard - end) % _MODULUS <= _FAR:
            return ()
        self._heard = end
        count = (end - heard) % _MODULUS
        if count > _SLOTS:
            return None
        slots = [_slot(heard + number) for number in range(count)]
        rows = dict.fromkeys(words[slot + 1] for slot in slots if words[slot] != self._process)
        overwritten = (words[_WRITTEN] - heard) % _MODULUS > _SLOTS
        return None if overwritten else rows.keys()

    def visit(self) -> bool:
        """Return whether another process has called this since this one did, or ever."""
        latest, self._words[_LATEST_VISITOR] = self._words[_LATEST_VISITOR], self._process
        return latest not in {0, self._process}

    def close(self) -> None:
        """Let go of the memory."""
        self._words.release()


def _slot(number: int) -> int:
    return _FIRST_SLOT + 2 * (number % _SLOTS)
