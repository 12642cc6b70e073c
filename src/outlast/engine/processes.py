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

from outlast.domain.errors import ConfigurationError, OutlastError, PayloadTooLargeError
from outlast.engine.channel import SIZE_BYTES, Pickled

T = TypeVar("T")


class WorkerProcessError(OutlastError):
    """The process that ran a function died, by a crash in it or for lack of memory."""

    reason = "PROCESS_DIED"


class ProcessPool:
    """Worker processes, as many as there are processors, started when they are needed.

    What is sent to them and what they send back has `max_bytes` at most: it passes
    through the memory of this process, and pickling holds up its event loop.
    """

    def __init__(self, size: int | None = None, *, max_bytes: int) -> None:
        self._turns = asyncio.Semaphore(size or os.cpu_count() or 1)
        self._max_bytes = max_bytes
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._closed = False

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Run a function of a module in another process and return its result.

        Function, arguments and result must pickle; what the function raises is raised.
        Cancelling the caller kills the process, also inside an extension that never
        looks up. Raises WorkerProcessError if the process dies, ConfigurationError
        for what does not pickle, or cannot be loaded on the other side, and
        PayloadTooLargeError.
        """
        request = self._pickled(function, args)
        async with self._turns:
            worker = await self._take()
            self._busy.add(worker)
            try:
                answer = await worker.ask(request, self._max_bytes)
            except (asyncio.IncompleteReadError, ConnectionError, RuntimeError) as error:
                # uvloop says RuntimeError of a pipe that has closed
                await worker.kill()
                raise WorkerProcessError("the process that did the work died") from error
            except BaseException:
                await worker.kill()
                raise
            finally:
                self._busy.discard(worker)
            self._idle.append(worker)
            if self._closed:
                await self.close()
        succeeded, result = _unpickled(function, answer)
        if not succeeded:
            raise result
        value: T = result
        return value

    def _pickled(self, function: Callable[..., object], args: tuple[object, ...]) -> Pickled:
        try:
            request = Pickled((function, args), self._max_bytes)
        except MemoryError:
            raise
        except Exception as error:  # whatever the class of an argument does
            raise ConfigurationError(
                f"{function!r} cannot run in another process, because it or an argument does "
                f"not pickle ({error}); name a function of a module"
            ) from error
        if not request.fits:
            what = "what is sent to another process"
            raise PayloadTooLargeError(what, request.size, self._max_bytes)
        return request

    async def _take(self) -> "_Worker":
        """Return a worker that has nothing to do."""
        while self._idle:
            worker = self._idle.pop()
            if worker.alive:
                return worker
            await worker.kill()
        return await _start(self._max_bytes)

    async def close(self) -> None:
        """End every process, whatever it is at."""
        self._closed = True
        while self._idle:
            await self._idle.pop().kill()
        for worker in self._busy:
            worker.end()  # whoever waits for its answer does the rest


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

    async def ask(self, request: Pickled, limit: int) -> bytes:
        """Have a request answered; raise PayloadTooLargeError if the answer is over the limit."""
        for piece in request.pieces:
            self._requests.write(piece)
            await self._requests.drain()
        size = int.from_bytes(await self._answers.readexactly(SIZE_BYTES))
        if size > limit:
            raise PayloadTooLargeError("what another process sends back", size, limit)
        return await self._answers.readexactly(size)

    async def kill(self) -> None:
        """End the process with all that it has started, and return when it is gone."""
        self.end()
        await self._process.communicate()

    def end(self) -> None:
        """End the process with all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


async def _start(max_bytes: int) -> _Worker:
    """Start a process that finds the modules that this one finds."""
    # What comes from the script bears this name there, as with multiprocessing.
    sys.modules.setdefault("__mp_main__", sys.modules["__main__"])
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is not None and not await asyncio.to_thread(Path(script).is_file):
        script = None
    program = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        f"from outlast.engine.worker import main; "
        f"main({os.getpid()}, {script!r}, {max_bytes})"
    )
    return _Worker(
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program),
            stdin=PIPE,
            stdout=PIPE,
            start_new_session=True,  # a group of its own, to be killed as one
        )
    )
