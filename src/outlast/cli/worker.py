"""`outlast worker`: run what others start."""

import click

from outlast.cli.listening import check_listen
from outlast.cli.parameters import EnvironmentOption
from outlast.cli.working import Work, work_options


@click.command(context_settings={"show_default": True})
@work_options
@click.option(
    "--listen",
    cls=EnvironmentOption,
    envvar="OUTLAST_WORKER_LISTEN",
    metavar="HOST:PORT",
    help="Where to answer health checks, and nothing else; without it no port is open. Port 0 "
    "takes a free one. Also unix:PATH.",
)
def worker(*, work: Work, listen: str | None) -> None:
    """Run operations that servers on the same store have started.

    It serves no API. One line on stdout says when it is ready, and which methods it runs.
    SIGTERM and Ctrl-C stop it as they stop a server: running operations have --grace to
    end, and what is left is given back, to be run by another process.
    """
    work.require_shared_store("a worker")
    if listen is not None:
        check_listen(listen)
    work.start_log()
    # As in `outlast serve`: --help does without gRPC.
    from outlast.cli.serving import serve_until_stopped  # noqa: PLC0415

    serve_until_stopped(work.load_services(), work.config(listen=listen, api=False))
