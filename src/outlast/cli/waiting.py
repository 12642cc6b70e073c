"""Waiting until an operation is done, whatever the server can do to help."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from outlast.cli.exit_codes import ExitCode
from outlast.cli.failure import Failure, TransientFailure
from outlast.cli.snapshot import Snapshot

SLICE_SECONDS = 1.0
"""How long one call waits; in between, the progress that the operation reports is shown."""

PATIENCE_SECONDS = 60.0
"""How long a server may be away before waiting is given up."""

_FIRST_DELAY_SECONDS = 0.1
_DELAY_FACTOR = 1.5
_MAX_DELAY_SECONDS = 5.0


class Reader(Protocol):
    """What waiting needs of a client; see OperationsClient."""

    def get(self, name: str, within: float) -> Snapshot:
        """Return an operation as it is."""

    def wait(self, name: str, seconds: float) -> Snapshot:
        """Return an operation when it is done, after so many seconds, or sooner."""


class Reporter(Protocol):
    """Whom to tell how it goes."""

    def show(self, snapshot: Snapshot) -> None:
        """Take notice of how the operation stands."""

    def notice(self, text: str) -> None:
        """Tell the person something else."""


def wait_until_done(
    reader: Reader,
    name: str,
    reporter: Reporter,
    timeout: float = math.inf,
    *,
    again: str,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Snapshot:
    """Return an operation when it is done; raise Failure if it is not after `timeout` seconds.

    When the server is away, at the start or later, waiting goes on for PATIENCE_SECONDS.
    `again` is the command that waits again, for persons.
    """
    deadline = monotonic() + timeout
    patience = _Patience(name, reporter, again)
    snapshot: Snapshot | None = None
    while snapshot is None or not snapshot.done:
        asked = monotonic()
        if asked >= deadline:
            raise (snapshot is None and patience.failure) or _timed_out(name, timeout, again)
        try:
            if snapshot is None:
                snapshot = reader.get(name, deadline - asked)
                asked = -math.inf  # what is not done is waited for at once
            else:
                snapshot = reader.wait(name, min(SLICE_SECONDS, deadline - asked))
        except TransientFailure as failure:
            patience.on_failure(failure, asked)
        else:
            patience.on_answer()
            reporter.show(snapshot)
        answered = monotonic()
        if not (snapshot and snapshot.done) and answered - asked < SLICE_SECONDS / 2:
            sleep(min(next(patience.delays), max(0.0, deadline - answered)))
    return snapshot


class _Patience:
    """How long a server has been away, and when it is asked again."""

    def __init__(self, name: str, reporter: Reporter, again: str) -> None:
        self.delays = _delays()
        self.failure: TransientFailure | None = None
        """What came of the latest try, if it failed."""
        self._name = name
        self._reporter = reporter
        self._again = again
        self._away_since = 0.0

    def on_failure(self, failure: TransientFailure, asked: float) -> None:
        """Take notice of a try that failed; raise Failure if it was one too many."""
        if self.failure is None:
            self._away_since = asked
            self._reporter.notice(f"the server does not answer; trying again: {failure}")
        self.failure = failure
        if asked - self._away_since > PATIENCE_SECONDS:
            raise _given_up(self._name, failure, self._again) from failure

    def on_answer(self) -> None:
        """Begin anew after a try that did not fail."""
        if self.failure is not None:
            self.failure, self.delays = None, _delays()


def _timed_out(name: str, timeout: float, again: str) -> Failure:
    return Failure(
        ExitCode.TIMEOUT,
        f"{name} is not done after {timeout:g} s; it goes on",
        f"wait again with: {again}",
    )


def _given_up(name: str, failure: Failure, again: str) -> Failure:
    return TransientFailure(
        failure.exit_code,
        *failure.lines,
        f"the server has been away for {PATIENCE_SECONDS:g} s; {name} is not lost by that",
        f"wait again with: {again}",
    )


def _delays() -> Iterator[float]:
    delay = _FIRST_DELAY_SECONDS
    while True:
        yield delay
        delay = min(delay * _DELAY_FACTOR, _MAX_DELAY_SECONDS)
