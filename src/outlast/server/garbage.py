"""How often a process that only serves looks for garbage."""

import gc

_THRESHOLDS = 10_000, 20, 20
"""How many more objects there are, then how many younger collections, until one is made."""


def collect_garbage_seldom() -> None:
    """Take what was loaded by now as there for good, and look for cycles less often.

    Operations come and go as trees of objects, which go without a collection. With Python's
    own thresholds, looking for cycles among them takes a fifth of a busy server's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
