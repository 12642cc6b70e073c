"""What a worker process does: run functions that it is sent, one after the other."""

import os
import pickle
import runpy
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

from outlast.domain.errors import ConfigurationError
from outlast.engine.channel import SIZE_BYTES, Pickled
from outlast.engine.guard import guard_group
from outlast.engine.processes import WorkerProcessError

_OOM_SCORE = 500
"""From -1000 to 1000: how much rather than others this process is killed for its memory."""


def main(parent: int, script: str | None, max_bytes: int) -> None:
    """Answer requests until the parent hangs up; a parent that was killed takes us along.

    `script` is what the parent runs as `__main__`: functions may come from there.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to act on
    guard_group(parent)
    with suppress(OSError):  # where there is no such thing, or the score is higher already
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE), encoding="ascii")
    requests, answers = _take_channel()
    if script is not None:
        _run_script(script)
    while size := requests.read(SIZE_BYTES):
        answer = _answer(requests.read(int.from_bytes(size)), max_bytes)
        answers.writelines(answer.pieces)
        answers.flush()


def _take_channel() -> tuple[BinaryIO, BinaryIO]:
    """Return what was standard input and output; what the work prints goes to the log."""
    channel = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr  # line by line, and not when the process ends
    return channel


def _run_script(script: str) -> None:
    """Run what the parent runs. If that fails, what comes from other modules still works."""
    module = ModuleType("__mp_main__")
    try:
        module.__dict__.update(runpy.run_path(script, run_name="__mp_main__"))
    except MemoryError:
        raise
    except BaseException:  # noqa: BLE001  # a script may well end its process
        traceback.print_exc()
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module


def _answer(request: bytes, max_bytes: int) -> Pickled:
    """Run a function; return whether it succeeded with its result, or with its error."""
    try:
        function, arguments = _loaded(request)
        result = function(*arguments)
    except Exception as error:  # noqa: BLE001  # the parent raises it
        return _failed(error, max_bytes)
    except BaseException as error:  # noqa: BLE001  # what ends a process must not end the server
        return _failed(WorkerProcessError(f"the work ended with {type(error).__name__}"), max_bytes)
    try:
        return Pickled((True, result), max_bytes)
    except MemoryError as error:
        return _failed(error, max_bytes)
    except Exception as error:  # noqa: BLE001  # whatever its class does when it is pickled
        text = f"what {function!r} returned does not pickle ({_described(error)})"
        return _failed(ConfigurationError(text), max_bytes)


def _loaded(request: bytes) -> tuple[Callable[..., object], tuple[object, ...]]:
    """Return a function and its arguments; what keeps them away is there the next time too."""
    try:
        function, arguments = pickle.loads(request)  # noqa: S301  # from the parent
    except MemoryError:
        raise
    except BaseException as error:  # whatever importing a module and making an object does
        raise ConfigurationError(
            "the function or an argument cannot be loaded in another process "
            f"({_described(error)}); name a function of a module that can be imported there"
        ) from error
    return function, arguments


def _failed(error: Exception, max_bytes: int) -> Pickled:
    """Return the answer that has the parent raise an error, or one that stands for it."""
    try:
        answer = Pickled((False, error), max_bytes)
        if answer.fits:
            pickle.loads(answer.value)  # noqa: S301  # our own
    except Exception:  # noqa: BLE001  # an error of somebody else's class
        text = f"the work failed with what does not pickle: {_described(error)}"
        return Pickled((False, RuntimeError(text)), max_bytes)
    return answer


def _described(error: BaseException) -> str:
    """Return an error in words, whatever its class does when it is asked for them."""
    return "".join(traceback.format_exception_only(error)).strip()
