"""The `outlast` command."""

import logging
import os
import sys

import click

from outlast import __version__
from outlast.cli.call import call
from outlast.cli.exit_codes import ExitCode, exit_code_table
from outlast.cli.failure import Failure
from outlast.cli.migrate import migrate_store
from outlast.cli.operations import operations
from outlast.cli.protos import protos
from outlast.cli.serve import serve
from outlast.cli.worker import worker

_log = logging.getLogger(__name__)


class _Command(click.Group):
    """The whole command: it alone turns what goes wrong into exit codes."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except Failure as failure:
            _log.debug("where it went wrong", exc_info=failure)
            failure.show()
            ctx.exit(failure.exit_code)
        except BrokenPipeError:
            # What is still in the buffer must not be written when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(ExitCode.OUTPUT_CLOSED)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(ExitCode.INTERRUPTED)


@click.group(
    cls=_Command,
    epilog=f"\b\nExit codes:\n{exit_code_table()}",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="outlast %(version)s")
def main() -> None:
    """Durable google.longrunning operations: they outlast the request and the process.

    Serve long-running operations, call any gRPC service through server reflection,
    and look after the operations of any google.longrunning server.
    """


main.add_command(serve)
main.add_command(worker)
main.add_command(call)
main.add_command(operations)
main.add_command(migrate_store)
main.add_command(protos)
