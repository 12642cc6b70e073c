"""Forgets operations whose time to be kept is over."""

import logging

from outlast.domain.errors import StoreUnavailableError
from outlast.ports import Clock, OperationStore

_log = logging.getLogger(__name__)

_BATCH = 500


async def sweep_forever(store: OperationStore, clock: Clock, interval_seconds: float) -> None:
    """Expire what is due, in small batches, once per interval."""
    while True:
        try:
            while await store.expire(_BATCH) == _BATCH:
                pass
        except StoreUnavailableError as error:
            _log.warning("expired operations stay for now: %s", error)
        await clock.sleep(interval_seconds)
