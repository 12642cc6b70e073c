"""What simulated operations do, as their requests say."""

import asyncio
import json
import random
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Self

from outlast.domain.operation import Progress
from outlast.domain.status import Code, Payload, Status
from outlast.engine.context import ExecutionContext
from outlast.engine.outcome import AttemptFailedError
from outlast.engine.retry import RetryPolicy
from outlast.testing.simulation.attempts import Attempt, Attempts
from outlast.testing.simulation.loop import Host

_REQUEST = "type.googleapis.com/simulation.Request"
_RESPONSE = "type.googleapis.com/simulation.Response"
_STEP = "type.googleapis.com/simulation.Step"
METADATA = "type.googleapis.com/simulation.Metadata"


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What one operation does in each of its attempts."""

    nonce: str
    """Tells the calls apart that start operations."""
    acts: list[tuple[str, float]]
    """What it does, one after the other: steps, reports and sleeps, with their seconds."""
    ending: str
    failures: int
    """How many attempts end that way; later ones succeed."""
    stubborn: float
    """For how many seconds it works on after it was told to stop, and then ends on its own."""

    @classmethod
    def draw(cls, chance: random.Random, nonce: str) -> Self:
        """Draw a script."""
        pick = chance.choice
        kinds = ["step", "step", "report", "sleep"]
        seconds = [0.0, 0.01, 0.5, 3.0] if chance.random() < 0.7 else [0.01, 3.0, 12.0]
        return cls(
            nonce=nonce,
            acts=[(pick(kinds), pick(seconds)) for _ in range(chance.randint(0, 5))],
            ending=pick(["unavailable", "delay", "bug", "exit", "permanent"]),
            failures=pick([0, 0, 0, 1, 1, 2, 9]),
            stubborn=pick([0.0, 0.0, 0.0, 1.0, 20.0]),
        )

    @classmethod
    def of(cls, request: Payload) -> Self:
        """Return the script that a request carries."""
        return cls(**json.loads(request.value))

    def request(self) -> Payload:
        """Return the request that carries this script."""
        return Payload(_REQUEST, json.dumps(asdict(self)).encode())


class Actor:
    """Runs scripts on one host, and tells what it sees."""

    def __init__(self, host: Host, attempts: Attempts, retry: RetryPolicy) -> None:
        self._host = host
        self._attempts = attempts
        self._retry = retry

    async def run(self, request: Payload, context: ExecutionContext) -> Payload:
        """Run the script that a request carries."""
        attempt = self._attempts.began(self._host, context.operation)
        script = Script.of(request)
        number = context.operation.attempt
        try:
            await self._obey(attempt, script, context)
            if number <= script.failures:
                raise self._failure(attempt, script.ending, number)
        finally:
            self._attempts.left(attempt)
        text = f"{attempt.lease.name} under epoch {attempt.lease.epoch}"
        attempt.response = Payload(_RESPONSE, text.encode())
        return attempt.response

    async def _obey(self, attempt: Attempt, script: Script, context: ExecutionContext) -> None:
        """Do the work; when told to stop do so, or else go on for a while and stop then."""
        try:
            await self._perform(attempt, script, context)
        except asyncio.CancelledError:
            self._attempts.told(attempt)
            if not script.stubborn:
                raise
            await self._work_on(script.stubborn)

    async def _perform(self, attempt: Attempt, script: Script, context: ExecutionContext) -> None:
        for number, (kind, seconds) in enumerate(script.acts):
            match kind:
                case "step":
                    await self._step(attempt, f"step-{number}", seconds, context)
                case "report":
                    await asyncio.sleep(seconds)
                    progress = Progress(number, len(script.acts))
                    metadata = Payload(METADATA, f"epoch {attempt.lease.epoch}".encode())
                    await context.report(progress, metadata)
                case _:
                    await asyncio.sleep(seconds)

    async def _step(
        self, attempt: Attempt, key: str, seconds: float, context: ExecutionContext
    ) -> None:
        recorded = await context.recorded_step(key)
        if recorded is not None:
            self._attempts.resumes(attempt, key, recorded)
            return
        self._attempts.executes(attempt, key)
        await asyncio.sleep(seconds)
        result = f"{key} of {attempt.lease.name} under epoch {attempt.lease.epoch}"
        await context.record_step(key, Payload(_STEP, result.encode()))

    def _failure(self, attempt: Attempt, ending: str, number: int) -> BaseException:
        """Return what the handler raises; note how long the next attempt has to wait."""
        attempt.least_delay = self._retry.delay(number, 0.0)
        match ending:
            case "unavailable":
                return AttemptFailedError(Status(Code.UNAVAILABLE, "try again"))
            case "delay":
                attempt.least_delay = delay = timedelta(seconds=2 * number)
                return AttemptFailedError(Status(Code.ABORTED, "try again later"), delay)
            case "permanent":
                return AttemptFailedError(Status(Code.INVALID_ARGUMENT, "it cannot be done"))
            case "exit":
                return SystemExit(3)
            case _:
                return ValueError("a bug of the handler")

    async def _work_on(self, seconds: float) -> None:
        """Ignore every request to stop for so many seconds."""
        loop = asyncio.get_running_loop()
        over = loop.create_future()
        loop.call_later(seconds, over.set_result, None)
        while not over.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([over])
