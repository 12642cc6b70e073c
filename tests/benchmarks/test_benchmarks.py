import subprocess
import sys
from pathlib import Path


def test_every_measurement_runs_and_names_its_target():
    """Whether the figures are good is not asked here: a test run is no place to time."""
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    assert "not decorated" not in finished.stderr
    for line in ("bare get", "start, execution off", "start to done", "memory", "sqlite"):
        assert f"\n{line} " in finished.stdout
    for line in ("start reply to handler running", "completion to WaitOperation reply"):
        assert f"\n{line} " in finished.stdout
    assert "synchronous=FULL" in finished.stdout
