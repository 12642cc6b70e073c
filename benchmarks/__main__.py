"""`python -m benchmarks`: everything, in one run. `--quick` shows that it works."""

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import grpc
import uvloop

from benchmarks import engine, latency, rpc
from benchmarks.load import percentile


def main() -> None:
    """Print what the machine is, then every measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="short runs, whose figures mean little"
    )
    quick = parser.parse_args().quick
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
        f"durable writes: SQLite, WAL, synchronous=FULL; one sync takes {_sync_micros(folder):.0f} µs"
    )


def _sync_micros(folder: Path) -> float:
    """Return the median time that the disk takes to make 4 KiB durable."""
    times = []
    with (folder / "sync").open("wb") as file:
        for _ in range(100):
            file.write(bytes(4096))
            file.flush()
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - began) * 1e6)
    return percentile(times, 0.5)


if __name__ == "__main__":
    main()
