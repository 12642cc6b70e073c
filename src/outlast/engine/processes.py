"""Work in other processes, for what would hold up the event loop."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import TypeVar

from anyio import BrokenWorkerProcess, to_process

from outlast.domain.errors import OutlastError

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1


class WorkerProcessError(OutlastError):
    """The process that ran a function died, or would have, by a crash or for lack of memory."""

    reason = "PROCESS_DIED"


async def run(function: Callable[..., T], *args: object) -> T:
    """Run a function of a module in another process and return its result.

    Function, arguments and result must pickle. The process is kept for later calls.
    Cancelling the caller kills it, also inside an extension that never looks up.
    """
    try:
        return await to_process.run_sync(_call, os.getpid(), function, *args, cancellable=True)
    except BrokenWorkerProcess as error:
        raise WorkerProcessError("the process that did the work died") from error


def _call(parent: int, function: Callable[..., T], *args: object) -> T:
    """Run in the worker process; it must not survive a server that was killed.

    A Ctrl-C reaches it too, and is the server's to act on: that lets work end in peace.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
    try:
        return function(*args)
    except Exception:
        raise
    except BaseException as error:
        # What ends a process there must not end the server here.
        raise WorkerProcessError(f"the work ended with {type(error).__name__}") from None
