"""The refits that a fast build ships: which are missing, what they would take, and their training."""

from collections.abc import Sequence

import numpy as np

from consilia.config.recipe import EnsembleRecipe
from consilia.config.records import TrialRecord, TrialTask
from consilia.config.study_folder import StudyFolder
from consilia.ensemble.members import chosen_trials
from consilia.errors import RunError, StudyError
from consilia.report.pace import describe_seconds
from consilia.study.end import settle_again
from consilia.study.opened import OpenStudy
from consilia.study.preflight import check_weights, load_weights_once
from consilia.study.slots import LazySlots
from consilia.train.device import device_of
from consilia.train.order import check_refit_workers
from consilia.train.refit import read_refit
from consilia.tune.refit_controller import RefitController
from consilia.tune.refitting import refit_here, refit_in_slots


def missing_refits(study: OpenStudy, recipe: EnsembleRecipe) -> tuple[TrialRecord, ...]:
    """Return the trials that the recipe ships and that have no refit yet; an empty tuple for a max build.

    A max build ships no refits.

    Raises:
        RunError: No trial has finished.
        StudyError: A refit is damaged or of other folds.
    """
    if recipe.build == "max":
        return ()
    folder, folds, records = study.folder, study.folds, study.records()
    chosen = chosen_trials(
        list(records.values()), recipe, folder=folder, store=study.store, folds=folds, seed=study.plan.seed
    )
    return tuple(records[number] for number in chosen if read_refit(folder.trial(number), folds) is None)


def refuse_missing(study: OpenStudy, missing: Sequence[TrialRecord], recipe: EnsembleRecipe) -> None:
    """Say what must be trained before the recipe can be built, and how long that takes.

    Raises:
        StudyError: A refit is missing.
    """
    if not missing:
        return
    folds = study.folds
    numbers = ", ".join(str(record.number) for record in missing)
    those, networks = (
        (f"that of trial {numbers} is", "1 network")
        if len(missing) == 1
        else (f"those of trials {numbers} are", f"{len(missing)} networks")
    )
    raise StudyError(
        f"Recipe {recipe.name} ships networks that are trained on all {len(folds.pool)} images outside the test split, "
        f"and {those} not trained yet.\n"
        f"`consilia ensemble {study.plan.name} --recipe {recipe.name} --refit` trains them: {networks}, about "
        f"{describe_seconds(refit_seconds(missing, k=folds.k))} in one slot."
    )


def refit_seconds(trials: Sequence[TrialRecord], *, k: int) -> float:
    """Return about how long the refits of finished trials take, one after the other.

    An epoch of a fold sees (k - 1) / k of the images that one of a refit does.
    """
    folds = [np.mean([fold.seconds for fold in trial.folds]) for trial in trials]
    return float(np.sum(folds)) * k / (k - 1)


def train_refits(study: OpenStudy, missing: Sequence[TrialRecord], slots: LazySlots) -> None:
    """Train what is missing: in the search's slots, or here where the study had no search.

    Raises:
        InterruptedStudyError: Ctrl-C; the same call goes on where this one stopped.
        RunError: A refit failed, the cluster cannot be used, or the disk is full.
    """
    if not missing:
        return
    plan, folder, view = study.plan, study.folder, study.view
    check_refit_workers(plan.cluster.workers_per_trial, folds=study.folds, training=plan.training)
    check_weights(study)
    load_weights_once(study)
    tasks = [TrialTask(number=record.number, hyperparameters=record.hyperparameters) for record in missing]
    study.note(f"{_count(len(tasks))} on all {len(study.folds.pool)} images outside the test split, one a member")
    if plan.search.configuration is not None:
        _settle(refit_here(tasks, study.training_context(device_of(plan.cluster)), folder, view), folder)
        return
    opened = slots.open(n_tasks=min(len(tasks), plan.cluster.max_slots or len(tasks)))
    _settle(refit_in_slots(tasks, opened.context, folder, view, capacity=opened.capacity, groups=opened.groups), folder)


def _settle(controller: RefitController, folder: StudyFolder) -> None:
    """Raise unless every refit has finished."""
    if controller.failed and not controller.halted:
        number, reason = next(iter(controller.failed.items()))
        raise RunError(
            f"{len(controller.failed)} of the refits failed, so the ensemble cannot be built. The first is that of "
            f"trial {number}: {reason}.\nThe same command tries them again; a recipe with build: max needs no refit."
        )
    settle_again(controller, folder, noun="refit")


def _count(n: int) -> str:
    return "1 refit" if n == 1 else f"{n} refits"
