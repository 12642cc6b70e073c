"""What the exit status of the `outlast` command means; it is part of its interface."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Why the command ended."""

    OK = 0
    OPERATION_FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    OPERATION_CANCELLED = 4
    TIMEOUT = 5
    UNREACHABLE = 6
    RPC_ERROR = 7
    CANNOT_SERVE = 8
    NOT_MIGRATED = 9
    INTERRUPTED = 130
    OUTPUT_CLOSED = 141

    @property
    def meaning(self) -> str:
        """Say in a few words what happened."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.OK: "success",
    ExitCode.OPERATION_FAILED: "the operation ended with an error",
    ExitCode.USAGE: "the command was called wrongly",
    ExitCode.NOT_FOUND: "no such operation, service, method or resource",
    ExitCode.OPERATION_CANCELLED: "the operation was cancelled",
    ExitCode.TIMEOUT: "--timeout ran out; an operation goes on",
    ExitCode.UNREACHABLE: "the server cannot be reached",
    ExitCode.RPC_ERROR: "the server answered with another error",
    ExitCode.CANNOT_SERVE: "the server could not start, or broke down",
    ExitCode.NOT_MIGRATED: "not everything was migrated",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C; an operation goes on",
    ExitCode.OUTPUT_CLOSED: "whoever read the output stopped reading",
}


def exit_code_table() -> str:
    """Return one line for each exit code."""
    return "\n".join(f"{code.value:>5}  {code.meaning}" for code in ExitCode)
