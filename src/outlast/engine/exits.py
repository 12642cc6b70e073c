"""GeneratorExit that somebody raises, told from that by which Python closes coroutines."""

from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


class ExitProof(Coroutine[Any, Any, T]):
    """A coroutine for a task that what it awaits cannot close.

    A thread, a task or a future whose error is GeneratorExit has that thrown into whoever
    awaits it. Python would close every coroutine on the way, which then can await and
    return nothing any more; here they see a RuntimeError.
    """

    def __init__(self, inner: Coroutine[Any, Any, T]) -> None:
        self._inner = inner

    def __await__(self) -> Generator[Any, Any, T]:
        return self._inner.__await__()

    def send(self, value: Any) -> Any:
        """Go on with what was awaited."""
        return self._inner.send(value)

    def throw(self, *error: Any) -> Any:
        """Go on with an error of what was awaited."""
        if isinstance(error[0], GeneratorExit):
            told = RuntimeError("what was awaited raised GeneratorExit")
            told.__cause__ = error[0]
            return self._inner.throw(told)
        return self._inner.throw(*error)

    def close(self) -> None:
        """Close the coroutine as Python closes others."""
        self._inner.close()
