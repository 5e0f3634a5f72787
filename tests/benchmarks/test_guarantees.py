"""The simulations behind the quoted guarantees run, and say what docs/methods.md can quote."""

from benchmark_runs import run


def test_guarantees_prints_every_promise_and_the_least_numbers_of_patients():
    figures = run("guarantees.py", "--draws=2", "--pools=3")
    assert (len(figures["sets"]), len(figures["thresholds"])) == (6, 9)
    for share, error in (*figures["sets"].values(), *figures["thresholds"].values()):
        assert 0 <= share <= 1
        assert error >= 0
    # ln(0.05) / ln(0.95) = 58.4, and with 20 tries ln(0.0025) / ln(0.95) = 116.8
    assert figures["least_positive_patients"]["sensitivity 0.95"] == [59, None]
    assert figures["least_answered_patients"]["risk 0.05"] == [117, None]
