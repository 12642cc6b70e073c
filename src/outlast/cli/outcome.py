"""Seeing an operation through to its end: what is printed then, and the exit code."""

import math

from outlast.cli.connection import Connection
from outlast.cli.exit_codes import ExitCode
from outlast.cli.failure import Failure
from outlast.cli.progress import progress_reporter
from outlast.cli.render import print_json, print_result
from outlast.cli.snapshot import Snapshot
from outlast.cli.waiting import Reader, wait_until_done
from outlast.domain.status import Code


def see_through(
    reader: Reader,
    name: str,
    connection: Connection,
    *,
    timeout: float = math.inf,
    as_json: bool = False,
) -> None:
    """Wait for an operation and print its outcome.

    An interrupt ends the waiting, not the operation. Whatever ends the waiting, the
    message says how to wait again on the same connection.
    """
    again = connection.command("wait", name)
    try:
        with progress_reporter(quiet=as_json) as reporter:
            snapshot = wait_until_done(reader, name, reporter, timeout, again=again)
    except KeyboardInterrupt:
        raise Failure(
            ExitCode.INTERRUPTED,
            f"interrupted; {name} goes on",
            f"wait again with: {again}",
            f"or cancel it with: {connection.command('cancel', name)}",
        ) from None
    print_outcome(snapshot, as_json=as_json)


def print_outcome(snapshot: Snapshot, *, as_json: bool = False) -> None:
    """Print the result of a finished operation; raise Failure if it ended with an error.

    As JSON the whole operation is printed, also one that ended with an error.
    """
    if as_json:
        print_json(snapshot.document)
    elif snapshot.error is None:
        print_result(snapshot.response)
    if snapshot.error is None:
        return
    code, verb = ExitCode.OPERATION_FAILED, "failed"
    if snapshot.error.code == Code.CANCELLED:
        code, verb = ExitCode.OPERATION_CANCELLED, "was cancelled"
    raise Failure(code, f"{snapshot.name} {verb}: {snapshot.error.line}", *snapshot.error.details)
