"""Runs many seeds, or one: `python -m outlast.testing.simulation --help`."""

import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor

import click
from click.core import ParameterSource

from outlast.testing.simulation.history import InvariantError
from outlast.testing.simulation.simulate import simulate
from outlast.testing.simulation.world import Report

_CHUNK = 50
_COUNT = click.IntRange(min=1)


def _first_failure(seeds: Iterable[int]) -> str | None:
    """Run seeds; return what the first that fails says."""
    for seed in seeds:
        try:
            simulate(seed)
        except InvariantError as error:
            return str(error)
    return None


def _told(report: Report) -> str:
    """Return what a report says, in lines."""
    return "\n".join(
        (
            f"seed {report.seed} holds: no invariant was broken",
            f"  {report.seconds:.1f} seconds of virtual time, {report.steps} callbacks",
            f"  {report.operations} operations",
            f"  {report.workers} workers, of which {report.stops} were told to stop",
            f"  {report.pauses} times one stood still, {report.outages} times it lost the store",
            f"  trace {report.digest}: the same as long as the code is the same",
        )
    )


@click.command()
@click.option("--seeds", type=_COUNT, default=200, show_default=True, help="How many to run.")
@click.option("--start", default=0, show_default=True, help="The first of them.")
@click.option(
    "--jobs", type=_COUNT, default=1, show_default=True, help="How many processes run them."
)
@click.option("--seed", type=int, help="Run this one only, and say what it was.")
@click.pass_context
def main(ctx: click.Context, seeds: int, start: int, jobs: int, seed: int | None) -> None:
    """Simulate the engine under faults; exit with 1 at the first seed that fails."""
    if seed is not None:
        for other in ("seeds", "start", "jobs"):
            if ctx.get_parameter_source(other) is not ParameterSource.DEFAULT:
                raise click.UsageError(f"--seed runs one seed: leave out --{other}.")
        try:
            click.echo(_told(simulate(seed)))
        except InvariantError as error:
            sys.exit(str(error))
        return
    chunks = [
        range(at, min(at + _CHUNK, start + seeds)) for at in range(start, start + seeds, _CHUNK)
    ]
    with ProcessPoolExecutor(jobs) as pool:
        for chunk, failure in zip(chunks, pool.map(_first_failure, chunks), strict=True):
            if failure is not None:
                pool.shutdown(wait=False, cancel_futures=True)
                sys.exit(failure)
            click.echo(f"seeds {chunk.start} to {chunk.stop - 1} hold")


if __name__ == "__main__":
    main()
