"""`outlast serve`: run a server, of one process or of several."""

from pathlib import Path

import click

from outlast.cli.connection import DEFAULT_ADDRESS
from outlast.cli.listening import check_listen, is_open_to_others
from outlast.cli.member import Membership
from outlast.cli.parameters import EnvironmentOption, count
from outlast.cli.working import Work, work_options
from outlast.server.config import TlsFiles

_ARGUMENTS = f"{__name__}.arguments"


class _Serve(click.Command):
    """Keeps the arguments as they came, for the processes that are started with them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = tuple(args)
        return super().parse_args(ctx, args)


@click.command(cls=_Serve, context_settings={"show_default": True})
@work_options
@click.option(
    "--no-execute",
    is_flag=True,
    cls=EnvironmentOption,
    envvar="OUTLAST_NO_EXECUTE",
    help="Serve the API only: the operations are run by other processes on the same store.",
)
@click.option(
    "--listen",
    default=DEFAULT_ADDRESS,
    cls=EnvironmentOption,
    envvar="OUTLAST_LISTEN",
    metavar="HOST:PORT",
    help="Where to listen; port 0 takes a free one. Also unix:PATH.",
)
@click.option(
    "--processes",
    type=count,
    default="1",
    metavar="COUNT",
    cls=EnvironmentOption,
    envvar="OUTLAST_PROCESSES",
    help="How many processes serve there, to use more cores. One that dies is started again.",
)
@click.option(
    "--insecure",
    is_flag=True,
    cls=EnvironmentOption,
    envvar="OUTLAST_INSECURE",
    help="Allow listening beyond this machine without TLS.",
)
@click.option(
    "--tls-cert",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    cls=EnvironmentOption,
    envvar="OUTLAST_TLS_CERT",
    help="Serve by TLS: the certificate chain, a PEM file.",
)
@click.option(
    "--tls-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    cls=EnvironmentOption,
    envvar="OUTLAST_TLS_KEY",
    help="The private key that belongs to it, a PEM file.",
)
@click.pass_context
def serve(
    ctx: click.Context,
    *,
    work: Work,
    no_execute: bool,
    listen: str,
    processes: int,
    insecure: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
) -> None:
    """Serve services with their long-running operations.

    A service is a class, and is made by its from_environment(os.environ) if it has
    that, else without arguments. One line on stdout says when the server is ready, and
    where. SIGTERM and Ctrl-C stop it: running operations have --grace to end. What is left
    is told to stop, abandoned if it has not after 5 s, and goes on when the server is
    started again. A second one stops it at once.
    """
    if (tls_cert is None) is not (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key belong together: give both.")
    check_listen(listen)
    if is_open_to_others(listen) and not (tls_cert or insecure):
        raise click.UsageError(
            f"{listen} can be reached from other machines: give --tls-cert and --tls-key, or "
            "--insecure if the network is to be trusted."
        )
    if no_execute:
        work.require_shared_store("a server that runs nothing itself")
        if work.methods or work.except_methods:
            raise click.UsageError(
                "--no-execute: nothing is run here, of no method; leave out --method and "
                "--except-method."
            )
    membership = ctx.find_object(Membership)
    if processes > 1 and membership is None:
        _require_shareable(work, listen)
        work.start_log(one_of_several=True)
        # What the supervisor needs, a single process does without.
        from outlast.cli.supervisor import serve_by_several  # noqa: PLC0415

        ctx.exit(serve_by_several(processes, listen, ctx.meta[_ARGUMENTS]))
    work.start_log(one_of_several=membership is not None)
    # gRPC takes a tenth of a second to import, which --help and completion do without.
    from outlast.cli.serving import serve_until_stopped  # noqa: PLC0415

    tls = TlsFiles(certificate=tls_cert, key=tls_key) if tls_cert and tls_key else None
    services = work.load_services()
    role = {"tls": tls, "execute": not no_execute}
    if membership is None:
        serve_until_stopped(services, work.config(listen=listen, **role))
    else:
        config = work.config(listen=membership.address, share_port=True, **role)
        serve_until_stopped(services, config, membership.announce)


def _require_shareable(work: Work, listen: str) -> None:
    """Raise UsageError for what several processes cannot have together."""
    work.require_shared_store("a server of several processes")
    if listen.startswith("unix:"):
        raise click.UsageError(
            "--processes: several processes cannot listen on one socket file; give a port."
        )
