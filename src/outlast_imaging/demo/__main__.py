"""The command line of the demonstration."""

import argparse
import asyncio
import sys
from pathlib import Path

from rich.console import Console

from outlast_imaging.demo import DemoError
from outlast_imaging.demo.run import run

_SAMPLES = Path(__file__).parents[1] / "samples"
_INTERRUPTED = 130
_WIDTH = 120


def main() -> int:
    """Run the demonstration; return 0 if every photograph was processed."""
    parser = argparse.ArgumentParser(
        prog="python -m outlast_imaging.demo",
        description="Process photographs with a server that is killed halfway. "
        "Run it again: what is done is not done again, until its data is removed.",
    )
    parser.add_argument(
        "photos",
        nargs="?",
        metavar="PHOTOS",
        type=Path,
        default=_SAMPLES,
        help="the folder with the photographs; without one, samples of the package",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data/demo"),
        help="where operations and derivatives are kept (default: %(default)s)",
    )
    parser.add_argument("--no-kill", action="store_true", help="let the server live")
    arguments = parser.parse_args()
    # Without links and `..`, which URIs of files that the server reads must not have.
    photos, data = (each.expanduser().resolve() for each in (arguments.photos, arguments.data))
    # A terminal has a width of its own; elsewhere no name is to be cut off.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    try:
        return asyncio.run(run(photos, data, console, kill=not arguments.no_kill))
    except DemoError as error:
        errors = Console(stderr=True, highlight=False)
        errors.print(f"The demo failed: {error}", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
