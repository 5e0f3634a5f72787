"""Which trials go on after a fold: a score matrix in, a decision out.

A trial is compared with the `n_best`-th best of the fully evaluated trials, on scores from which the fold's own
difficulty is taken: some folds are harder for everybody. Source: docs/methods.md section 2.2.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

Scores = npt.NDArray[np.float64]  # higher is better

MIN_ROWS = 4  # of the better half: fewer trials give no residual worth trusting

# Of the scores' size: trials that are equal but for the last digits are equal.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Where a trial stands after some of its folds."""

    adjusted: float  # its mean score without the folds' effects
    bar: float  # mean of the n_best-th best trial
    margin: float  # how far below the bar it may be and still reach it

    @property
    def stops(self) -> bool:
        """Say whether the trial is out of reach of the bar."""
        return self.adjusted - self.bar < -self.margin


def judge(finished: Scores, scores: Scores, *, n_best: int, eps: float) -> Verdict | None:
    """Compare a trial with those that have run all folds.

    Args:
        finished: Scores of the fully evaluated trials, (n_trials, k).
        scores: Of the trial, its first f folds, (f,) with 1 <= f < k.
        n_best: The trial must still be able to reach this rank among `finished`.
        eps: Probability of stopping a trial that would have reached it, at this look, under the additive model.

    Returns:
        The verdict, or None while fewer than `n_best` trials (or MIN_ROWS) are complete: then no trial is stopped.
    """
    n_trials, k = finished.shape
    n_folds = len(scores)
    assert 1 <= n_folds < k, f"{n_folds} of {k} folds"
    if n_trials < max(n_best, MIN_ROWS):
        return None
    bar = float(np.sort(finished.mean(axis=1))[-n_best])
    sd, freedom = residual_sd(finished)
    margin = float(stdtrit(freedom, 1 - eps)) * sd * math.sqrt(1 / n_folds - 1 / k)
    rounding = _ROUNDING * float(np.abs(finished).max())
    return Verdict(adjusted=adjusted_mean(finished, scores), bar=bar, margin=margin + rounding)


def fold_effects(finished: Scores) -> Scores:
    """Return how much better each fold's scores are than the mean, (k,); zeros where no trial is complete."""
    if len(finished) == 0:
        return np.zeros(finished.shape[1])
    effects: Scores = finished.mean(axis=0) - finished.mean()
    return effects


def adjusted_mean(finished: Scores, scores: Scores) -> float:
    """Return the mean of a trial's first folds without the folds' effects: its expected mean over all folds."""
    return float(np.mean(scores - fold_effects(finished)[: len(scores)]))


def residual_sd(finished: Scores) -> tuple[float, int]:
    """Return the residual standard deviation of 'trial + fold', and its degrees of freedom.

    Only the better half is used, at least MIN_ROWS trials: bad ones scatter more than those that are compared here.
    A tie at the edge of the half goes to the earlier trial.
    """
    means = finished.mean(axis=1)
    n_rows = max(MIN_ROWS, -(-len(finished) // 2))
    better = finished[np.argsort(-means, kind="stable")[:n_rows]]
    residuals = better - better.mean(axis=1, keepdims=True) - better.mean(axis=0) + better.mean()
    freedom = (len(better) - 1) * (finished.shape[1] - 1)
    return float(np.sqrt((residuals**2).sum() / freedom)), freedom
