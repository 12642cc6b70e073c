"""`python -m tests.chaos`: kill and pause servers under load, and check what was seen."""

import argparse
import asyncio
import math
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.chaos.run import Report, run
from tests.chaos.stores import KINDS


def main() -> int:
    """Run once; return the exit status: 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=_seconds, default=60.0, help="how long the load lasts")
    parser.add_argument("--seed", type=int, help="what is done and when; random if not given")
    parser.add_argument("--store", choices=KINDS, default="sqlite", help="what servers share")
    options = parser.parse_args()
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    folder = Path(tempfile.mkdtemp(prefix="outlast-chaos-"))
    print(f"seed {seed}, {options.seconds:g} seconds, in {folder}", flush=True)
    try:
        report = asyncio.run(_run_until_stopped(folder, options.seconds, seed, options.store))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("stopped; nothing was checked")
        shutil.rmtree(folder)
        return 130
    print(report.summary())
    if report.anomalies:
        _explain(report)
        print(f"seed {seed}; the store, the audit and the logs are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def _seconds(text: str) -> float:
    """Return how long the load lasts; in no time at all nothing would be tested."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds of more than 0")
    return seconds


async def _run_until_stopped(folder: Path, seconds: float, seed: int, kind: str) -> Report:
    """Run; SIGTERM ends it as Ctrl-C does, so that no server is left behind."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run(folder, seconds=seconds, seed=seed, kind=kind)


def _explain(report: Report) -> None:
    for anomaly in report.anomalies:
        print(f"{anomaly.rule}: {anomaly.subject} {anomaly.text}")
    subjects = dict.fromkeys(it.subject for it in report.anomalies if it.subject)
    for subject in list(subjects)[:3]:
        print(f"\n{subject}")
        print("\n".join(f"  {line}" for line in report.history.timeline(subject)))


if __name__ == "__main__":
    sys.exit(main())
