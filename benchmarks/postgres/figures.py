"""How figures are printed beside their targets."""

from collections.abc import Sequence

from benchmarks.load import percentile


def verdict(value: float, target: float, *, at_least: bool = False, unit: str = "") -> str:
    """Say what the target is, and whether it is met."""
    met = value >= target if at_least else value <= target
    return f"target {'>=' if at_least else '<='} {target:g}{unit}: {'met' if met else 'MISSED'}"


def milliseconds(seconds: Sequence[float], *shares: float) -> str:
    """Return percentiles, the largest for a share of 1, each in a column of its own."""
    return "".join(f"{percentile(seconds, share) * 1000:10.2f}" for share in shares)
