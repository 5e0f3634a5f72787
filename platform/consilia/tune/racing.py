"""Which trials go on: decisions from the scores that trials report. Neither Ray nor Optuna is used."""

import bisect
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from consilia.config import study as plans
from consilia.config.recipe import Greedy, SoftVote
from consilia.config.records import EpochReport
from consilia.config.study import StudyPlan
from consilia.metrics.scores import METRICS
from consilia.tune.fold_pruner import Scores, adjusted_mean, judge

_MIN_BEST = 5


class Racing(Protocol):
    """Hears every epoch of every trial, in the order in which they arrive.

    There is one decision at each place: a trial that resumes repeats its reports, and goes on as before.
    """

    def hear(self, report: EpochReport) -> str | None:
        """Return why this trial stops now, or None for it to go on."""

    def adjusted(self, scores: Sequence[float]) -> float:
        """Return the mean over all folds that is expected of a trial with these scores in its first folds."""


class EveryFold:
    """Stops no trial."""

    def hear(self, report: EpochReport) -> str | None:
        """Return None."""
        return None

    def adjusted(self, scores: Sequence[float]) -> float:
        """Return the mean."""
        return float(np.mean(scores))


class EpochHalving(EveryFold):
    """Asynchronous successive halving on the epochs of the first fold.

    A trial that reaches the rung goes on if it is among the best `1 / reduction` of all scores seen there,
    its own included. The rung lies at a third of the epochs (for reduction 3): the next would be the last
    epoch, where the fold is paid for anyway.

    Source: Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020; docs/methods.md section 2.1.
    """

    def __init__(self, plan: plans.Halving, *, epochs: int, higher_is_better: bool) -> None:
        self.rung = plan.rung(epochs)
        self._plan = plan
        self._epochs = epochs
        self._sign = -1.0 if higher_is_better else 1.0
        self._numbers: set[int] = set()  # of the trials that have reached the rung
        self._losses: list[float] = []  # theirs, ascending; lower is better

    def hear(self, report: EpochReport) -> str | None:
        """Record the score if this is the rung, and compare it with the others there."""
        if report.fold != 0 or report.epoch != self.rung or self.rung >= self._epochs:
            return None
        if report.number in self._numbers:
            return None
        loss = self._sign * report.score
        assert not math.isnan(loss), "training scores the rung, whatever else it leaves out"
        self._numbers.add(report.number)
        bisect.insort(self._losses, loss)
        n_scores = len(self._losses)
        if n_scores < self._plan.min_scores:
            return None
        n_better = bisect.bisect_left(self._losses, loss)
        n_promoted = math.ceil(n_scores / self._plan.reduction)
        if n_better < n_promoted:
            return None
        return f"rank {n_better + 1} of {n_scores} after epoch {report.epoch} of fold 1; {n_promoted} go on"


class FoldPruner:
    """After each fold but the last, stops a trial that is not expected to be among the best `n_best`.

    Source: docs/methods.md section 2.2, and `tune.fold_pruner` for the decision itself.
    """

    def __init__(self, *, k: int, n_best: int, eps: float, higher_is_better: bool) -> None:
        self._k = k
        self._n_best = n_best
        self._eps = eps
        self._sign = 1.0 if higher_is_better else -1.0
        self._partial: dict[int, list[float]] = {}  # by trial; higher is better
        self._finished: list[int] = []  # ascending: by number and not by time, so that the same trials decide the same
        self._matrix: Scores = np.empty((0, k))  # their scores

    def hear(self, report: EpochReport) -> str | None:
        """Record a finished fold's score, and decide."""
        number = report.number
        if report.fold_result is None or self._has_finished(number):
            return None
        scores = self._partial.setdefault(number, [])
        if report.fold < len(scores):
            return None
        assert report.fold == len(scores), f"trial {number}: fold {report.fold} came after {len(scores)} folds"
        scores.append(self._sign * report.score)
        if len(scores) == self._k:
            self._finish(number)
            return None
        verdict = judge(self._matrix, np.array(scores), n_best=self._n_best, eps=self._eps)
        if verdict is None or not verdict.stops:
            return None
        return (
            f"{self._sign * verdict.adjusted:.4f} after {len(scores)} of {self._k} folds, adjusted for the folds; "
            f"rank {self._n_best} has {self._sign * verdict.bar:.4f}, "
            f"and {verdict.margin:.4f} of difference could be chance"
        )

    def adjusted(self, scores: Sequence[float]) -> float:
        """Return the mean without the effects of the folds, as far as finished trials show them."""
        return self._sign * adjusted_mean(self._matrix, self._sign * np.array(scores))

    def _has_finished(self, number: int) -> bool:
        place = bisect.bisect_left(self._finished, number)
        return place < len(self._finished) and self._finished[place] == number

    def _finish(self, number: int) -> None:
        place = bisect.bisect_left(self._finished, number)
        self._finished.insert(place, number)
        self._matrix = np.insert(self._matrix, place, self._partial.pop(number), axis=0)


class BothStops:
    """Halving on the epochs of the first fold, then fold pruning over the folds."""

    def __init__(self, halving: EpochHalving, fold_pruning: FoldPruner) -> None:
        self._halving = halving
        self._fold_pruner = fold_pruning

    def hear(self, report: EpochReport) -> str | None:
        """Let both hear; they decide at different places."""
        return self._halving.hear(report) or self._fold_pruner.hear(report)

    def adjusted(self, scores: Sequence[float]) -> float:
        """Return the mean without the effects of the folds."""
        return self._fold_pruner.adjusted(scores)


def make_racing(plan: StudyPlan) -> Racing:
    """Return the racing that the study asks for."""
    stopping = plan.search.stopping
    higher_is_better = bool(METRICS[plan.search.metric].higher_is_better)

    def halving(its: plans.Halving) -> EpochHalving:
        return EpochHalving(its, epochs=plan.training.epochs, higher_is_better=higher_is_better)

    def fold_pruning(its: plans.FoldPruning) -> FoldPruner:
        n_best = its.keep or default_n_best(plan)
        return FoldPruner(k=plan.folds.k, n_best=n_best, eps=its.eps, higher_is_better=higher_is_better)

    if isinstance(stopping, plans.Racing):
        return BothStops(halving(stopping.halving), fold_pruning(stopping.fold_pruning))
    if isinstance(stopping, plans.Halving):
        return halving(stopping)
    if isinstance(stopping, plans.FoldPruning):
        return fold_pruning(stopping)
    return EveryFold()


def default_n_best(plan: StudyPlan) -> int:
    """Return how many trials the stopping must not harm, at least five.

    For a greedy ensemble it is a quarter of its candidates: the trials that will have run all folds, since halving
    lets one in `reduction` through. Otherwise it is the number of trials that the ensemble takes.
    """
    selection, stopping = plan.ensemble.selection, plan.search.stopping
    if isinstance(selection, Greedy):
        reduction = stopping.halving.reduction if isinstance(stopping, plans.Racing) else 1
        n_best = min(selection.pool, plan.search.trials // reduction) // 4
    else:
        n_best = selection.members if isinstance(selection, SoftVote) else 1
    return max(_MIN_BEST, n_best)
