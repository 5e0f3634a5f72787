"""The simulation behind the calibration error of docs/methods.md runs, and says what it can quote."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_calibration_error_prints_both_estimators_beside_the_truth():
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "calibration_error.py"), "--quick", "--draws=20"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures.pop("machine")
    assert len(figures) == 9
    for name, sides in figures.items():
        truth, estimate, covered, held = sides["debiased"]
        assert held == 1.0
        assert 0 <= covered <= 1
        assert (truth == 0) == ("temperature 1," in name)
        assert 0 <= estimate < sides["plain"][1] + 0.1
