"""`python -m benchmarks`: everything, in one run. `--quick` shows that it works."""

import argparse
import os
import platform
import tempfile
from pathlib import Path

import grpc
import uvloop

from benchmarks import engine, latency, rpc
from benchmarks.load import sync_micros
from outlast.server.garbage import collect_garbage_seldom


def main() -> None:
    """Print what the machine is, then every measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="short runs, whose figures mean little"
    )
    quick = parser.parse_args().quick
    collect_garbage_seldom()
    with tempfile.TemporaryDirectory(prefix="outlast-benchmark-") as name:
        folder = Path(name)
        _print_machine(folder)
        uvloop.run(_measure(folder, quick=quick))


async def _measure(folder: Path, *, quick: bool) -> None:
    await rpc.measure(folder, rounds=1 if quick else 7, seconds=0.3 if quick else 3)
    await engine.measure(folder, operations=500 if quick else 20_000)
    await latency.measure(folder, operations=20 if quick else 500)


def _print_machine(folder: Path) -> None:
    print(
        f"{os.cpu_count()} cores ({platform.machine()}), load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}, grpcio {grpc.__version__}, "
        "client and servers on the same machine, uvloop"
    )
    print(
        f"durable writes: SQLite, WAL, synchronous=FULL; one sync takes {sync_micros(folder):.0f} µs"
    )


if __name__ == "__main__":
    main()
