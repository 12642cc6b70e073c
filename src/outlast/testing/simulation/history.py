"""What happened, in order: the trace that a failing seed prints, and that a replay repeats."""

import hashlib
from collections.abc import Callable, Iterator

_SHOWN_EVENTS = 60


class InvariantError(AssertionError):
    """A simulation did what must never happen. The same seed does it again."""

    def __init__(self, seed: int, invariant: str, detail: str, trace: list[str]) -> None:
        shown = "\n  ".join(trace)
        super().__init__(
            f"seed {seed} breaks the invariant: {invariant}\n{detail}\nwhat happened:\n  {shown}"
        )
        self.seed = seed
        self.invariant = invariant


class History:
    """Collects events, and ends the run at the first that breaks an invariant."""

    def __init__(
        self, seed: int, time: Callable[[], float], abort: Callable[[Exception], None]
    ) -> None:
        self.seed = seed
        self._time = time
        self._abort = abort
        self._events: list[str] = []

    def note(self, where: str, text: str) -> None:
        """Add an event of a host."""
        self._events.append(f"{self._time():11.6f} {where:10} {text}")

    def violation(self, invariant: str, detail: str, name: str = "") -> InvariantError:
        """Return the error for a broken invariant; `name` is the operation that it befell."""
        return InvariantError(self.seed, invariant, detail, list(self._shown(name)))

    def broken(self, invariant: str, detail: str, name: str = "") -> None:
        """End the run. Code that swallows exceptions cannot hide it."""
        self.note("INVARIANT", f"{invariant}: {detail}")
        self._abort(self.violation(invariant, detail, name))

    def digest(self) -> str:
        """Return a hash of everything that happened."""
        return hashlib.sha256("\n".join(self._events).encode()).hexdigest()

    def _shown(self, name: str) -> Iterator[str]:
        """Yield the end of the trace, and all that mentions the operation before it."""
        cut = max(0, len(self._events) - _SHOWN_EVENTS)
        if name:
            yield from (event for event in self._events[:cut] if name in event)
        yield "…"
        yield from self._events[cut:]
