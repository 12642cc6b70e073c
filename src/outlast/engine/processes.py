"""Work in other processes, for what would hold up the event loop."""

import asyncio
import os
import pickle
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from outlast.domain.errors import ConfigurationError, OutlastError

T = TypeVar("T")

SIZE_BYTES = 8
"""The length of a request and of an answer comes first, in so many bytes."""


class WorkerProcessError(OutlastError):
    """The process that ran a function died, by a crash in it or for lack of memory."""

    reason = "PROCESS_DIED"


class ProcessPool:
    """Worker processes, as many as there are processors, started when they are needed."""

    def __init__(self, size: int | None = None) -> None:
        self._turns = asyncio.Semaphore(size or os.cpu_count() or 1)
        self._idle: list[_Worker] = []
        self._closed = False

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Run a function of a module in another process and return its result.

        Function, arguments and result must pickle; what the function raises is raised.
        Cancelling the caller kills the process, also inside an extension that never
        looks up. Raises WorkerProcessError if the process dies, and ConfigurationError
        for what does not pickle, or cannot be loaded on the other side.
        """
        request = _pickled(function, args)
        async with self._turns:
            worker = await self._take()
            try:
                answer = await worker.ask(request)
            except (asyncio.IncompleteReadError, ConnectionError, RuntimeError) as error:
                # uvloop says RuntimeError of a pipe that has closed
                await worker.kill()
                raise WorkerProcessError("the process that did the work died") from error
            except BaseException:
                await worker.kill()
                raise
            self._idle.append(worker)
            if self._closed:
                await self.close()
        succeeded, result = _unpickled(function, answer)
        if not succeeded:
            raise result
        value: T = result
        return value

    async def _take(self) -> "_Worker":
        """Return a worker that has nothing to do."""
        while self._idle:
            worker = self._idle.pop()
            if worker.alive:
                return worker
            await worker.kill()
        return await _start()

    async def close(self) -> None:
        """End the processes that have nothing to do; those at work end with it."""
        self._closed = True
        while self._idle:
            await self._idle.pop().kill()


def _pickled(function: Callable[..., object], args: tuple[object, ...]) -> bytes:
    try:
        return pickle.dumps((function, args))
    except MemoryError:
        raise
    except Exception as error:  # whatever the class of an argument does
        raise ConfigurationError(
            f"{function!r} cannot run in another process, because it or an argument does not "
            f"pickle ({error}); name a function of a module"
        ) from error


def _unpickled(function: Callable[..., object], answer: bytes) -> tuple[bool, Any]:
    try:
        succeeded, result = pickle.loads(answer)  # noqa: S301  # from our own process
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise ConfigurationError(
            f"what {function!r} returned or raised in another process cannot be loaded here "
            f"({type(error).__name__}: {error})"
        ) from error
    return succeeded, result


class _Worker:
    """One worker process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._requests = cast("asyncio.StreamWriter", process.stdin)
        self._answers = cast("asyncio.StreamReader", process.stdout)

    @property
    def alive(self) -> bool:
        """Whether the process has not ended, as far as is known."""
        return self._process.returncode is None

    async def ask(self, request: bytes) -> bytes:
        """Have a request answered."""
        self._requests.write(len(request).to_bytes(SIZE_BYTES) + request)
        await self._requests.drain()
        size = await self._answers.readexactly(SIZE_BYTES)
        return await self._answers.readexactly(int.from_bytes(size))

    async def kill(self) -> None:
        """End the process with all that it has started, and return when it is gone."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.communicate()


async def _start() -> _Worker:
    """Start a process that finds the modules that this one finds."""
    # What comes from the script bears this name there, as with multiprocessing.
    sys.modules.setdefault("__mp_main__", sys.modules["__main__"])
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is not None and not await asyncio.to_thread(Path(script).is_file):
        script = None
    program = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        f"from outlast.engine.worker import main; main({os.getpid()}, {script!r})"
    )
    return _Worker(
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program),
            stdin=PIPE,
            stdout=PIPE,
            start_new_session=True,  # a group of its own, to be killed as one
        )
    )
