"""Interrupts, wherever the tests run."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_heeded() -> Iterator[None]:
    """Have processes heed interrupts, as those that a person starts.

    Shells have what they run in the background ignore them, and who is started inherits that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
