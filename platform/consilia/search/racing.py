"""Who goes on: pure decisions over the scores that trials report, with no Ray and no Optuna."""

import math
from typing import Protocol

from consilia.plan.study import Halving, NoStopping, Stopping
from consilia.records import EpochReport


class Racing(Protocol):
    """Hears every epoch of every trial, in the order in which they arrive."""

    def hear(self, report: EpochReport) -> str | None:
        """Return why this trial stops now, or None for it to go on."""


class EveryFold:
    """Nobody is stopped."""

    def hear(self, report: EpochReport) -> str | None:
        """Return None."""
        return None


class EpochHalving:
    """Asynchronous successive halving on the epochs of the first fold.

    A trial that reaches the rung goes on if it is among the best `1 / reduction` of all scores seen there,
    its own included. The rung lies at a third of the epochs (for reduction 3): the next would be the last
    epoch, where the fold is paid for anyway.

    Source: Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020; docs/methods.md section 2.1.
    """

    def __init__(self, plan: Halving, *, epochs: int, higher_is_better: bool) -> None:
        self.rung = math.ceil(epochs / plan.reduction)
        self._plan = plan
        self._epochs = epochs
        self._sign = -1.0 if higher_is_better else 1.0
        self._losses: dict[int, float] = {}  # by trial; lower is better

    def hear(self, report: EpochReport) -> str | None:
        """Record the score if this is the rung, and compare it with the others there.

        A trial is decided on once: one that resumes reports its rung again and goes on as before.
        """
        if report.fold != 0 or report.epoch != self.rung or self.rung >= self._epochs:
            return None
        if report.number in self._losses:
            return None
        self._losses[report.number] = self._sign * report.score
        n_scores = len(self._losses)
        if n_scores < self._plan.min_scores:
            return None
        n_better = sum(loss < self._losses[report.number] for loss in self._losses.values())
        n_promoted = math.ceil(n_scores / self._plan.reduction)
        if n_better < n_promoted:
            return None
        return f"rank {n_better + 1} of {n_scores} after epoch {report.epoch} of fold 1; {n_promoted} go on"


def make_racing(plan: Stopping, *, epochs: int, higher_is_better: bool) -> Racing:
    """Return the racing that the plan asks for."""
    if isinstance(plan, NoStopping):
        return EveryFold()
    return EpochHalving(plan, epochs=epochs, higher_is_better=higher_is_better)
