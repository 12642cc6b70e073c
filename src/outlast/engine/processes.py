"""Work in other processes, for what would hold up the event loop."""

import asyncio
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from outlast.domain.errors import ConfigurationError, OutlastError, PayloadTooLargeError
from outlast.engine.channel import SIZE_BYTES, Pickled

T = TypeVar("T")

_Spawned = tuple[subprocess.Popen[bytes], socket.socket]
"""A process, and the socket by which it is sent its requests."""


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

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        requests: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
        channel: asyncio.ReadTransport,
    ) -> None:
        self._process = process
        self._requests = requests
        self._answers = answers
        self._channel = channel
        """By which the answers come."""
        self._ended = _in_thread(process.wait)

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return not self._ended.done()

    async def ask(self, request: Pickled, limit: int) -> bytes:
        """Have a request answered; raise PayloadTooLargeError if the answer is over the limit.

        Raises ConnectionError if the process ends: a process that it has started and that
        left its group may hold the channel open.
        """
        asking = asyncio.ensure_future(self._ask(request, limit))
        either: list[asyncio.Future[Any]] = [asking, self._ended]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise ConnectionResetError("the process has ended")
            return asking.result()
        finally:
            asking.cancel()

    async def _ask(self, request: Pickled, limit: int) -> bytes:
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
        self._requests.close()
        self._channel.close()
        await asyncio.shield(self._ended)

    def end(self) -> None:
        """End the process with all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


async def _start(max_bytes: int) -> _Worker:
    """Start a process that finds the modules that this one finds."""
    # What comes from the script bears this name there, as with multiprocessing.
    sys.modules.setdefault("__mp_main__", sys.modules["__main__"])
    spawning = _in_thread(lambda: _spawn(max_bytes))
    try:
        process, channel = await asyncio.shield(spawning)
    except asyncio.CancelledError:
        spawning.add_done_callback(_discard)
        raise
    answers = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(answers)
    try:
        _, requests = await asyncio.open_unix_connection(sock=channel)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: protocol, process.stdout)
    except BaseException:
        _discard(spawning)
        raise
    return _Worker(process, requests, answers, transport)


def _spawn(max_bytes: int) -> _Spawned:
    """Start a process. Not for the event loop.

    Nor by it: uvloop forks in a way that has gRPC's handlers run in the child, where
    now and then they crash.
    """
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is not None and not Path(script).is_file():
        script = None
    program = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        f"from outlast.engine.worker import main; "
        f"main({os.getpid()}, {script!r}, {max_bytes})"
    )
    ours, theirs = socket.socketpair()
    theirs.shutdown(socket.SHUT_WR)  # it answers by another channel
    with theirs:
        process = subprocess.Popen(  # noqa: S603  # it is this Python
            [sys.executable, "-c", program],
            stdin=theirs.fileno(),
            stdout=subprocess.PIPE,
            start_new_session=True,  # a group of its own, to be killed as one
        )
    return process, ours


def _discard(spawning: asyncio.Future[_Spawned]) -> None:
    """End a process that was started for somebody who is gone."""
    if spawning.cancelled() or spawning.exception() is not None:
        return
    process, channel = spawning.result()
    channel.close()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdout is not None:
        process.stdout.close()
    _ = _in_thread(process.wait)


def _in_thread(call: Callable[[], T]) -> asyncio.Future[T]:
    """Have a thread of its own make a call: the loop's may be taken by work that does not end."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="outlast-processes")
    future = asyncio.get_running_loop().run_in_executor(thread, call)
    thread.shutdown(wait=False)
    return future
