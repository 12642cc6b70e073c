"""The feed of what a store's users in this process are told."""

import logging
from collections.abc import Callable

from outlast.ports import ChangeFeed, Changes

_log = logging.getLogger(__name__)


class LocalFeed(ChangeFeed):
    """Calls its listeners from within `publish`, which is for the event loop's thread."""

    def __init__(self) -> None:
        self._listeners: dict[object, Callable[[Changes], None]] = {}

    @property
    def has_listeners(self) -> bool:
        """Whether anybody would hear of a change."""
        return bool(self._listeners)

    def subscribe(self, listener: Callable[[Changes], None]) -> Callable[[], None]:
        subscription = object()
        self._listeners[subscription] = listener

        def unsubscribe() -> None:
            self._listeners.pop(subscription, None)

        return unsubscribe

    def publish(self, changes: Changes) -> None:
        """Tell every listener, whatever another one does, unless there is nothing to tell."""
        if changes is not None and not changes:
            return
        for listener in tuple(self._listeners.values()):
            try:
                listener(changes)
            except Exception:  # noqa: BLE001  # the others are to hear of it all the same
                _log.exception("a listener of changes failed")
