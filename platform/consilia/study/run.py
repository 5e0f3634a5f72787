"""A study, every step from top to bottom; a step whose result is stored is not repeated.

What combines and trains imports torch, timm and scikit-learn. It is imported by the step that needs it, so that a
search asks for its workers seconds earlier.
"""

import functools
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from consilia.cluster.connection import joins_cluster
from consilia.cluster.tasks import ray_tasks
from consilia.config.recipe import EnsembleRecipe
from consilia.data.folds import make_folds
from consilia.errors import UserError
from consilia.report.curves import Curves
from consilia.study.end import is_over, settle_end
from consilia.study.folder import claim_folder, hold_study, log_to
from consilia.study.opened import OpenStudy
from consilia.study.preflight import check_disk, check_unchanged, check_weights, load_weights_once
from consilia.study.slots import LazySlots, largest_steps
from consilia.study.warm_start import read_warm_start
from consilia.train.order import check_workers
from consilia.tune.capacity import most_slots
from consilia.tune.contract import Audience
from consilia.tune.search import search_trials
from consilia.tune.warm_start import Start

if TYPE_CHECKING:
    from consilia.study.combine import StudyResult

logger = logging.getLogger(__name__)


def run_study(study: OpenStudy, *, retry_failed: bool = False) -> "StudyResult":
    """Prepare, search, confirm the best trials, train again what a fast build ships, combine and evaluate.

    Args:
        study: To be run.
        retry_failed: Try the configurations of failed trials again, each under a new number.

    Raises:
        UserError: The plan does not fit the data, the folder or the disk.
        InterruptedStudyError: Ctrl-C; the same call goes on where this one stopped.
        RunError: No trial finished, a refit failed, the cluster cannot be used, or the disk is full.
    """
    study = _decoding_on_cluster(study)
    plan, folder = study.plan, study.folder
    if study.mirror is not None and study.mirror.exists():
        study.refresh()  # trials that it has already need no start
    start = read_warm_start(study)  # before the folder is made: its study.yaml would keep a name that is wrong
    with claim_folder(plan, study.studies, work=study.at_work()), log_to(folder.log), LazySlots(study) as slots:
        for remark in start.remarks:
            study.note(remark)
        if retry_failed and any(record.state == "failed" for record in study.records().values()):
            _begin_again(study)
        is_done = is_over(study)
        if is_done:
            check_unchanged(study)
        else:
            check_weights(study)  # before hours of decoding, while a person is watching
        if not is_done and plan.search.configuration is None:
            _ = study.store  # wrong data are said before Ray starts, and decoding takes all cores
            slots.begin(n_tasks=most_slots(plan.cluster, n_trials=plan.search.trials))
        if not is_done:
            load_weights_once(study)
        make_missing_folds(study)
        if not is_done:
            _run_trials(study, slots, start.starts, retry_failed=retry_failed)
        if plan.search.confirm and plan.search.configuration is None:
            from consilia.study.confirm import confirm_best

            confirm_best(study, slots)
        result = _build(study, plan.ensemble, slots, trains=True)
        _write_page(study)
        return result


def build_recipe(study: OpenStudy, recipe: EnsembleRecipe, *, refit: bool = False, test: bool = False) -> "StudyResult":
    """Build a recipe's ensemble from the predictions that a study's trials have left.

    Args:
        study: Its search has finished a trial.
        recipe: How to combine; not necessarily the plan's own.
        refit: Train the refits that the recipe ships, where they are missing; without it nothing is trained.
        test: Open the locked test split for another recipe than the plan's, too.

    Raises:
        StudyError: The study has no folds yet, its data have changed, or refits are missing.
        UserError: Refits are asked for, but the recipe ships none.
        RunError: No trial has finished, or a refit failed.
    """
    if refit and recipe.build == "max":
        raise UserError(
            f"--refit trains what a recipe with build: fast ships, but {recipe.name} has build: max. Leave it out."
        )
    with hold_study(study.folder, work=study.at_work()), LazySlots(study) as slots:
        with log_to(study.folder.log) if refit else nullcontext():
            result = _build(study, recipe, slots, trains=refit, test=test)
        if recipe == study.plan.ensemble:
            _write_page(study)
        return result


def _write_page(study: OpenStudy) -> None:
    """Write report.html; whatever goes wrong with it takes nothing from the result, which is stored."""
    from consilia.study.page import write_study_page

    try:
        write_study_page(study)
    except Exception as error:
        logger.warning("report.html could not be written", exc_info=True)
        study.note(
            f"report.html could not be written: {error}. All else is stored; `consilia report {study.plan.name}` tries "
            "again."
        )


def make_missing_folds(study: OpenStudy) -> None:
    """Write the study's folds, if that has not been done before.

    Raises:
        DataError: The data cannot be divided so, or a patient stands on two sides.
    """
    plan = study.plan
    if not study.folder.folds.exists():
        folds = make_folds(
            study.store,
            k=plan.folds.k,
            seed=plan.seed,
            test=plan.data.test,
            test_fraction=plan.data.test_fraction,
            on_leak=plan.data.on_leak,
        )
        folds.save(study.folder.folds, study.store)


def _begin_again(study: OpenStudy) -> None:
    """Let a search that was over go on, so that it is not over either if it is interrupted."""
    if study.plan.search.configuration is not None:
        raise UserError(
            f"retry_failed is for searches, but {study.plan.name} trains one configuration, which failed. Once its "
            "cause is corrected, train it as a study of another name (--set name=...)."
        )
    study.folder.search_end.unlink(missing_ok=True)


def _decoding_on_cluster(study: OpenStudy) -> OpenStudy:
    """Let a cluster decode, if all its nodes see the images."""
    profile, data = study.plan.cluster, study.plan.data.path
    if study.plan.search.configuration is not None or not joins_cluster(profile) or data is None:
        return study
    return replace(study, workers=functools.partial(ray_tasks, profile, Path(data), study.note))


def _run_trials(study: OpenStudy, slots: LazySlots, starts: Sequence[Start], *, retry_failed: bool) -> None:
    plan, folder = study.plan, study.folder
    check_workers(plan.cluster.workers_per_trial, folds=study.folds, training=plan.training)
    audience = Audience(study.view, Curves(folder, metric=plan.search.metric, noted=study.note))
    if plan.search.configuration is not None:
        from consilia.train.device import device_of
        from consilia.tune.measuring import largest_network
        from consilia.tune.single import train_one

        check_disk(study, n_slots=1, largest_network=largest_network(largest_steps(study)))
        settle_end(study, train_one(plan, study.training_context(device_of(plan.cluster)), folder, audience))
        return
    limit = most_slots(plan.cluster, n_trials=plan.search.trials)
    opened = slots.open(n_tasks=limit)
    if plan.cluster.max_slots is None and opened.capacity.n_slots == limit < plan.search.trials:
        study.note(
            f"{limit} of {plan.search.trials} trials at a time, a quarter, so that suggestions can learn from the "
            "trials before them; cluster.max_slots allows more"
        )
    check_disk(study, n_slots=opened.capacity.n_slots, largest_network=opened.largest_network)
    controller = search_trials(
        plan,
        opened.context,
        folder,
        audience,
        capacity=opened.capacity,
        groups=opened.groups,
        starts=starts,
        retry_failed=retry_failed,
    )
    settle_end(study, controller)


def _build(
    study: OpenStudy, recipe: EnsembleRecipe, slots: LazySlots, *, trains: bool, test: bool = False
) -> "StudyResult":
    """Combine the trials; where `trains`, train missing refits before."""
    from consilia.study.combine import combine, is_built
    from consilia.study.refit import missing_refits, refuse_missing, train_refits

    if not is_built(study, recipe):
        missing = missing_refits(study, recipe)
        if trains:
            train_refits(study, missing, slots)
        else:
            refuse_missing(study, missing, recipe)
    slots.close()
    return combine(study, recipe, test=test)
