"""The simulation behind the calibration error of docs/methods.md runs, and says what it can quote."""

from benchmark_runs import run


def test_calibration_error_prints_both_estimators_beside_the_truth():
    figures = run("calibration_error.py", "--draws=20")
    assert figures.pop("machine")
    assert len(figures) == 9
    for name, sides in figures.items():
        truth, estimate, covered, held = sides["debiased"]
        assert held == 1.0
        assert 0 <= covered <= 1
        assert (truth == 0) == ("temperature 1," in name)
        assert 0 <= estimate < sides["plain"][1] + 0.1
