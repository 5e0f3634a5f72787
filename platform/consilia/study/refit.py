"""The refits that a fast build ships: which are missing, what they would take, and their training."""

import functools
import logging
from collections.abc import Sequence

import numpy as np

from consilia.config.recipe import EnsembleRecipe
from consilia.config.records import TrialRecord, TrialTask
from consilia.config.study import StudyPlan
from consilia.config.study_folder import StudyFolder
from consilia.data.folds import FoldPlan
from consilia.data.store.image_store import ImageStore
from consilia.ensemble.members import chosen_trials
from consilia.errors import RunError, StudyError
from consilia.study.context import training_context
from consilia.study.end import InterruptedStudyError
from consilia.study.slots import open_slots
from consilia.study.view import StudyView
from consilia.study.weights import check_weights, resolve_weights
from consilia.train.order import check_refit_workers
from consilia.train.refit import read_refit
from consilia.tune.refit_controller import RefitController
from consilia.tune.refitting import refit_here, refit_in_slots
from consilia.tune.stored import read_trials

logger = logging.getLogger(__name__)


def missing_refits(
    plan: StudyPlan, folder: StudyFolder, store: ImageStore, folds: FoldPlan, *, recipe: EnsembleRecipe
) -> tuple[TrialRecord, ...]:
    """Return the trials that the recipe ships and that have no refit yet; none of a max build.

    Raises:
        RunError: No trial has finished.
        StudyError: A refit is damaged or of other folds.
    """
    if recipe.build == "max":
        return ()
    records = read_trials(folder)
    chosen = chosen_trials(list(records.values()), recipe, folder=folder, store=store, folds=folds, seed=plan.seed)
    return tuple(records[number] for number in chosen if read_refit(folder.trial(number), folds) is None)


def refuse_missing(missing: Sequence[TrialRecord], folds: FoldPlan, *, recipe: EnsembleRecipe, study: str) -> None:
    """Say what must be trained before the recipe can be built, and how long that takes.

    Raises:
        StudyError: Some refit is missing.
    """
    if not missing:
        return
    numbers = ", ".join(str(record.number) for record in missing)
    those, networks = (
        (f"that of trial {numbers} is", "1 network")
        if len(missing) == 1
        else (f"those of trials {numbers} are", f"{len(missing)} networks")
    )
    raise StudyError(
        f"Recipe {recipe.name} ships networks that are trained on all {len(folds.pool)} images outside the test split, "
        f"and {those} not trained yet.\n"
        f"`consilia ensemble {study} --recipe {recipe.name} --refit` trains them: {networks}, about "
        f"{_duration(refit_seconds(missing, k=folds.k))} in one slot."
    )


def refit_seconds(trials: Sequence[TrialRecord], *, k: int) -> float:
    """Return about how long the refits of finished trials take, one after the other.

    An epoch of a fold sees (k - 1) / k of the images that one of a refit does.
    """
    folds = [np.mean([fold.seconds for fold in trial.folds]) for trial in trials]
    return float(np.sum(folds)) * k / (k - 1)


def train_refits(
    missing: Sequence[TrialRecord],
    plan: StudyPlan,
    folder: StudyFolder,
    store: ImageStore,
    folds: FoldPlan,
    *,
    view: StudyView,
) -> None:
    """Train what is missing: in slots, as the search, or here where the study had no search.

    Raises:
        InterruptedStudyError: Ctrl-C; the same call goes on where this one stopped.
        RunError: A refit failed, the cluster cannot be used, or the disk is full.
    """
    if not missing:
        return
    check_refit_workers(plan.cluster.workers_per_trial, folds=folds, training=plan.training)
    weights = resolve_weights(plan)
    check_weights(plan, weights, folder)
    tasks = [TrialTask(number=record.number, hyperparameters=record.hyperparameters) for record in missing]
    remark = f"{_count(len(tasks))} on all {len(folds.pool)} images outside the test split, one a member"
    logger.info("%s", remark)
    view.noted(remark)
    context_on = functools.partial(training_context, plan, store, folds, folder, weights=weights)
    if plan.search.configuration is not None:
        _settle(refit_here(tasks, context_on(device="auto"), folder, view), folder)
        return
    with open_slots(plan, lambda device: context_on(device=device), view, n_tasks=len(tasks)) as slots:
        controller = refit_in_slots(
            tasks, slots.context, folder, view, profile=plan.cluster, capacity=slots.capacity, nodes=slots.nodes
        )
    _settle(controller, folder)


def _settle(controller: RefitController, folder: StudyFolder) -> None:
    """Raise unless every refit has finished."""
    if controller.halted:
        raise RunError(f"The refits stopped, since the disk is full: {controller.halted}.")
    if controller.failed:
        number, reason = next(iter(controller.failed.items()))
        raise RunError(
            f"{len(controller.failed)} of the refits failed, so the ensemble cannot be built. The first is that of "
            f"trial {number}: {reason}.\nThe same command tries them again; a recipe with build: max needs no refit."
        )
    if controller.n_open:
        raise InterruptedStudyError(
            f"Stopped with {_count(controller.n_open)} unfinished. Everything finished is stored in {folder.root}; the "
            "same command goes on where this one stopped."
        )


def _count(n: int) -> str:
    return "1 refit" if n == 1 else f"{n} refits"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
