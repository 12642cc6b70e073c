"""The one way in which a command gives up."""

import click

from outlast.cli.exit_codes import ExitCode
from outlast.cli.text import printable


class Failure(Exception):  # noqa: N818 - not a fault of the program
    """Ends the command with an exit code and, on stderr, a message.

    The message is one line that says what is wrong, `details` are lines of their own
    below it, the last of which says what to do about it.
    """

    def __init__(self, exit_code: ExitCode, message: str, *details: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.lines = tuple(printable(line) for line in (message, *details) if line)

    def add_detail(self, detail: str) -> None:
        """Say one more thing, below all others."""
        self.lines = (*self.lines, printable(detail))

    def show(self) -> None:
        """Print the message and its details to stderr."""
        first, *others = self.lines
        click.echo(f"Error: {first}", err=True)
        for line in others:
            click.echo(f"  {line}", err=True)


class InvalidArgumentFailure(Failure):
    """The server refused a field of the request."""

    def __init__(
        self, exit_code: ExitCode, message: str, *details: str, fields: frozenset[str]
    ) -> None:
        super().__init__(exit_code, message, *details)
        self.fields = fields
        """Those that it named; it may have named none."""


class TransientFailure(Failure):
    """The server did not answer, or not in time: the same call may succeed later."""
