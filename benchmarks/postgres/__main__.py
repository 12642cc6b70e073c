"""`python -m benchmarks.postgres`: everything on PostgreSQL, in one run of about ten minutes.

How to read it. The database, the nodes and the callers share this machine, so a figure says
little by itself: compare what stands side by side, and look at the load in the first line.
Systems and cases take turns; the medians of their rounds are printed.

* no-ops: what one process carries that enqueues and works, until every end is committed, with
  as many operations as take a few seconds. Outlast is so many times as fast, and takes so
  many times less processor time, with as many callers; what is enqueued all at once, which it
  does not offer, is compared with 256 callers that start one by one. Processor time hardly
  depends on what else the machine does. What each system promises is below its figures.
* dispatch: how soon a handler runs that nothing stands in the way of, and how soon a caller
  hears of the end, on the same node and on another one.
* failover: from kill -9 of a node to the handler on the other node; cancels across nodes.
* scaling: one node and two, with what an operation costs in processor time. With two cores,
  which the database and the client need too, two nodes cannot carry twice as much; the costs
  say what they would carry on machines of their own. Those of a database elsewhere are 0.
  With fewer callers a node writes less at a time: hence the row with half of them.
* volume: what calls cost with few and with many stored operations.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path

import uvloop

from benchmarks.load import sync_micros
from benchmarks.postgres import dispatch, failover, noops, scaling, volume
from benchmarks.postgres.database import DatabaseServer, database_server


class Part(StrEnum):
    """What can be measured by itself."""

    NO_OPS = "no-ops"
    DISPATCH = "dispatch"
    FAILOVER = "failover"
    SCALING = "scaling"
    VOLUME = "volume"


def main() -> None:
    """Print what the machine is, then the measurements that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="short runs: their figures mean little"
    )
    parser.add_argument("--only", action="append", choices=list(Part), help="a part; repeatable")
    parser.add_argument("--no-peers", action="store_true", help="measure Outlast alone")
    parser.add_argument("--url", help="a server to measure on, whose user may make databases")
    parser.add_argument("--version", default="18", help="of the server that is started otherwise")
    given = parser.parse_args()
    with database_server(given.url, given.version) as server:
        _print_machine(server)
        began = time.monotonic()
        peers = [] if given.no_peers else noops.installed_peers()
        for part in given.only or Part:
            uvloop.run(_measure(Part(part), server, peers, quick=given.quick))
        took = time.monotonic() - began
        print(f"\nmeasured in {took:.0f} s, load {os.getloadavg()[0]:.1f} at the end")


async def _measure(
    part: Part, server: DatabaseServer, peers: Sequence[noops.System], *, quick: bool
) -> None:
    match part:
        case Part.NO_OPS:
            await noops.measure_rates(server, peers=peers, quick=quick)
        case Part.DISPATCH:
            await noops.measure_dispatch(server, peers=peers, quick=quick)
            await dispatch.measure(server, quick=quick)
        case Part.FAILOVER:
            await failover.measure(server, quick=quick)
        case Part.SCALING:
            await scaling.measure(server, quick=quick)
        case Part.VOLUME:
            await volume.measure(server, quick=quick)


def _print_machine(server: DatabaseServer) -> None:
    print(
        f"{os.cpu_count()} cores ({platform.machine()}), load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}, uvloop, all on the same machine"
    )
    with tempfile.TemporaryDirectory(prefix="outlast-benchmark-") as folder:
        micros = sync_micros(Path(folder))
    print(f"{server}; one sync takes {micros:.0f} µs")
    print(
        ", ".join(
            [f"outlast {version('outlast')}", f"psycopg {version('psycopg')}", *noops.versions()]
        )
    )


if __name__ == "__main__":
    main()
