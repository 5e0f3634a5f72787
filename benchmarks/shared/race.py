"""Races of recorded or simulated trials: consilia's own racing, fed as a search feeds it, and its rivals."""

import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import optuna
from optuna.study import StudyDirection

from consilia.config.card import DataCard, FolderSource
from consilia.config.recipe import EnsembleRecipe, Greedy
from consilia.config.records import EpochReport, FoldResult
from consilia.config.space import Architecture, SearchSpace
from consilia.config.study import (
    FoldPruning,
    FoldsPlan,
    Metric,
    NoStopping,
    Racing,
    SearchPlan,
    Stopping,
    StudyPlan,
    TrainingPlan,
)
from consilia.tune import racing

Curves = npt.NDArray[np.float64]  # (n_trials, k, epochs), scores of the validation folds

OURS: dict[str, Stopping] = {"halving + fold pruning": Racing(), "fold pruning": FoldPruning()}
RIVALS = ("incumbent", "WilcoxonPruner")
FULL = "full cross-validation"
METHODS = (*OURS, *RIVALS, FULL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """How a search over a set of trials went."""

    trained: Mapping[int, int]  # epochs of each trial, by row
    finished: tuple[int, ...]  # rows of the trials that ran all their folds

    @property
    def epochs(self) -> int:
        """Return the epochs of all trials."""
        return sum(self.trained.values())


def race(curves: Curves, racing: racing.Racing, order: Sequence[int], *, n_slots: int = 1) -> Race:
    """Let trials run in this order; every epoch is reported at once, and slots train an epoch each in turn.

    Args:
        curves: What the trials score.
        racing: Decides.
        order: Rows of `curves`; the first trial of the search is number 0, whatever its row.
        n_slots: Trials at a time.
    """
    waiting = deque(enumerate(order))
    running: list[tuple[int, Iterator[EpochReport]]] = []
    trained, finished = dict.fromkeys(order, 0), []
    while waiting or running:
        while waiting and len(running) < n_slots:
            number, row = waiting.popleft()
            running.append((row, reports(number, curves[row])))
        goes_on = []
        for row, coming in running:
            report = next(coming)
            trained[row] += 1
            if racing.hear(report) is not None:
                continue
            if report.fold_result is not None and report.fold + 1 == curves.shape[1]:
                finished.append(row)
            else:
                goes_on.append((row, coming))
        running = goes_on
    return Race(trained=trained, finished=tuple(finished))


def reports(number: int, scores: npt.NDArray[np.float64]) -> Iterator[EpochReport]:
    """Yield a worker's reports of a trial with these scores, (k, epochs)."""
    epochs = scores.shape[1]
    for fold, curve in enumerate(scores.tolist()):
        say = partial(EpochReport, number=number, fold=fold, train_loss=0.0, seconds=0.0, images=0)
        for epoch, score in enumerate(curve[:-1], start=1):
            yield say(epoch=epoch, score=score)
        result = FoldResult(fold=fold, epochs=epochs, metrics={}, n_images=0, seconds=0.0)
        yield say(epoch=epochs, score=curve[-1], fold_result=result)


def make(method: str, curves: Curves, *, metric: Metric = "log_loss") -> racing.Racing:
    """Return a method's racing over as many trials as `curves` has."""
    higher_is_better = metric == "macro_auc"
    if method == "incumbent":
        return _Incumbent(k=curves.shape[1], higher_is_better=higher_is_better)
    if method == "WilcoxonPruner":
        return _Wilcoxon(k=curves.shape[1], higher_is_better=higher_is_better)
    return make_ours(OURS.get(method, NoStopping()), curves, metric=metric)


def make_ours(stopping: Stopping, curves: Curves, *, metric: Metric = "log_loss") -> racing.Racing:
    """Return the racing of a study with these trials and consilia's defaults, but for its stopping."""
    n, k, epochs = curves.shape
    space = SearchSpace(family="f", architectures={"a": Architecture(timm="a")}, start_with=("a",), parameters={})
    plan = StudyPlan(
        name="race",
        data=DataCard(name="card", source=FolderSource()),
        spaces=(space,),
        folds=FoldsPlan(k=k),
        search=SearchPlan(trials=n, metric=metric, stopping=stopping),
        training=TrainingPlan(epochs=epochs),
        ensemble=EnsembleRecipe(name="greedy", selection=Greedy()),
    )
    return racing.make_racing(plan)


class _Incumbent(racing.EveryFold):
    """Stops after a fold if the mean so far is worse than the mean of the best finished trial over all its folds.

    Source: the aggressive rule of Bergman et al., Don't Waste Your Time: Early Stopping Cross-Validation, AutoML 2024.
    """

    def __init__(self, *, k: int, higher_is_better: bool) -> None:
        self._k = k
        self._sign = 1.0 if higher_is_better else -1.0
        self._scores: dict[int, list[float]] = {}
        self._best = -np.inf

    def hear(self, report: EpochReport) -> str | None:
        if report.fold_result is None:
            return None
        scores = self._scores.setdefault(report.number, [])
        scores.append(self._sign * report.score)
        mean = float(np.mean(scores))
        if len(scores) == self._k:
            self._best = max(self._best, mean)
            return None
        return "worse than the incumbent" if mean < self._best else None


class _Wilcoxon(racing.EveryFold):
    """Optuna's WilcoxonPruner with its defaults, each fold a step; a pruned trial is told as PRUNED."""

    def __init__(self, *, k: int, higher_is_better: bool) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            pruner = optuna.pruners.WilcoxonPruner()
        direction = StudyDirection.MAXIMIZE if higher_is_better else StudyDirection.MINIMIZE
        sampler = optuna.samplers.RandomSampler(seed=0)  # there is nothing to sample
        self._study = optuna.create_study(direction=direction, sampler=sampler, pruner=pruner)
        self._k = k
        self._trials: dict[int, tuple[optuna.Trial, list[float]]] = {}

    def hear(self, report: EpochReport) -> str | None:
        if report.fold_result is None:
            return None
        if report.number not in self._trials:
            self._trials[report.number] = (self._study.ask(), [])
        trial, scores = self._trials[report.number]
        scores.append(report.score)
        trial.report(report.score, step=report.fold)
        if len(scores) == self._k:
            self._study.tell(trial, float(np.mean(scores)))
            return None
        if not trial.should_prune():
            return None
        self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return "pruned"
