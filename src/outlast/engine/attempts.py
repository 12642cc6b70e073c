"""One attempt: a handler, run to its end, and what that means for the operation."""

import asyncio
import logging
import random

from outlast.domain.errors import LeaseLostError
from outlast.domain.status import Code, Payload, Status
from outlast.domain.transitions import (
    DEADLINE_EXCEEDED,
    Cancelled,
    Failed,
    Outcome,
    Released,
    Succeeded,
)
from outlast.engine.children import children_of
from outlast.engine.outcome import AttemptFailedError, bounded, failure
from outlast.engine.running import Running, StopReason
from outlast.engine.settings import EngineSettings

_log = logging.getLogger(__name__)


async def run_attempt(
    running: Running, settings: EngineSettings, chance: random.Random
) -> Outcome | None:
    """Run the handler; return what is to be written, None if that is not ours to say.

    Nothing that a handler raises passes, SystemExit neither, except LeaseLostError:
    another worker has the operation.
    """
    running.began = True
    try:
        if running.stop_reason is not None:
            raise asyncio.CancelledError  # noqa: TRY301  # as if it had been in time
        with children_of(running.lease.name):
            response = await running.method.run(running.claim.request, running.context)
        outcome = _checked(response, settings.max_response_bytes)
    except AttemptFailedError as error:
        status = bounded(error.status, settings.max_error_bytes)
        outcome = _failure(running, AttemptFailedError(status, error.retry_delay), chance)
    except LeaseLostError:
        raise
    except BaseException as error:  # noqa: BLE001  # SystemExit must not end the server
        return _outcome_of_stop(running, error, chance)
    return None if running.lease_lost else outcome


def _outcome_of_stop(
    running: Running, error: BaseException, chance: random.Random
) -> Outcome | None:
    """Return what an unexpected end means, which depends on whether we asked for one."""
    operation = running.claim.operation
    if running.stop_reason is not None and not isinstance(error, asyncio.CancelledError):
        _log.warning(
            "the handler of operation %s failed while it stopped", operation.name, exc_info=error
        )
    match running.stop_reason:
        case StopReason.CANCEL:
            return Cancelled()
        case StopReason.DEADLINE:
            return Failed(DEADLINE_EXCEEDED)
        case StopReason.SHUTDOWN:
            return Released()
        case StopReason.LEASE_LOST:
            return None
        case None:
            _log.error(
                "attempt %d of operation %s failed",
                operation.attempt,
                operation.name,
                exc_info=error,
            )
            return _failure(running, error, chance)


def _failure(running: Running, error: BaseException, chance: random.Random) -> Outcome:
    return failure(running.claim.operation, running.method.retry, error, chance.random())


def _checked(response: Payload, limit: int) -> Outcome:
    size = len(response.value)
    if size <= limit:
        return Succeeded(response)
    message = f"the response has {size} bytes; the limit is {limit}"
    return Failed(Status(Code.RESOURCE_EXHAUSTED, message, reason="RESPONSE_TOO_LARGE"))
