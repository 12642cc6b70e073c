"""The feed of a store whose only users are in this process."""

from collections.abc import Callable, Sequence

from outlast.ports import Change, ChangeFeed, Changes


class LocalFeed(ChangeFeed):
    """Calls its listeners from within the write, when the change is visible already."""

    def __init__(self) -> None:
        self._listeners: dict[object, Callable[[Changes], None]] = {}

    def subscribe(self, listener: Callable[[Changes], None]) -> Callable[[], None]:
        subscription = object()
        self._listeners[subscription] = listener

        def unsubscribe() -> None:
            self._listeners.pop(subscription, None)

        return unsubscribe

    def publish(self, changes: Sequence[Change]) -> None:
        """Tell every listener, unless there is nothing to tell."""
        if changes:
            for listener in tuple(self._listeners.values()):
                listener(changes)
