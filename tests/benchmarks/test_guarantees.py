"""The simulations behind the quoted guarantees run, and say what docs/methods.md can quote."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_guarantees_prints_every_promise_and_the_least_numbers_of_patients():
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "guarantees.py"), "--quick", "--draws=2", "--pools=3"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (len(figures["sets"]), len(figures["thresholds"])) == (6, 9)
    for share, error in (*figures["sets"].values(), *figures["thresholds"].values()):
        assert 0 <= share <= 1
        assert error >= 0
    # ln(0.05) / ln(0.95) = 58.4, and with 20 tries ln(0.0025) / ln(0.95) = 116.8
    assert figures["least_positive_patients"]["sensitivity 0.95"] == [59, None]
    assert figures["least_answered_patients"]["risk 0.05"] == [117, None]
