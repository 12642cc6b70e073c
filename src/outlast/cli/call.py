"""`outlast call`: call any method of any gRPC server that has reflection."""

import click

from outlast.cli.connection import Connection, connection_options
from outlast.cli.parameters import NEVER, duration

_EXAMPLE = """\b
Example:
  outlast call ScriptService/RunScript --data '{"steps": [{"sleep": "2s"}]}' --wait
"""


@click.command(epilog=_EXAMPLE)
@click.argument("method", metavar="SERVICE/METHOD")
@click.option(
    "--data",
    default="",
    metavar="JSON|@FILE|-",
    help="The request as proto JSON: itself, from a file or from stdin. Several documents "
    "for a method that takes a stream.  [default: an empty message]",
)
@click.option(
    "--wait",
    is_flag=True,
    help="Wait for the operation that the method starts, and print its result.",
)
@click.option(
    "--timeout",
    type=duration,
    default=NEVER,
    show_default=True,
    metavar="DURATION",
    help="Give up on the call after so long, and then on the waiting. A server that is away "
    "while an operation is waited for is given up after a minute anyway.",
)
@connection_options
def call(connection: Connection, method: str, data: str, wait: bool, timeout: float) -> None:
    """Call a method and print what it returns, as proto JSON.

    SERVICE is the full name of a service or, if only one has it, its last part; a dot
    may stand for the slash. A stream of responses is printed as one JSON document on each line.
    """
    # gRPC takes a tenth of a second to import, which --help and completion do without.
    from outlast.cli.invocation import invoke  # noqa: PLC0415

    invoke(connection, method, data, wait=wait, timeout=timeout)
