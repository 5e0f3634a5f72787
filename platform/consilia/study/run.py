"""The study, every step from top to bottom; a step whose result is stored is not repeated."""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path

from consilia.cluster.connection import joins_cluster
from consilia.cluster.tasks import ray_tasks
from consilia.config.study import StudyPlan, WeightsSource
from consilia.config.study_folder import StudyFolder
from consilia.data.folds import FoldPlan, check_no_leak, load_folds, make_folds
from consilia.data.store.image_store import ImageStore
from consilia.data.store.prepare import prepare
from consilia.errors import StudyError
from consilia.report.curves import Curves
from consilia.study.combine import StudyResult, combine, is_built
from consilia.study.context import training_context
from consilia.study.end import is_over, settle_end
from consilia.study.folder import open_study
from consilia.study.log import log_to
from consilia.study.preflight import check_disk
from consilia.study.refit import missing_refits, train_refits
from consilia.study.slots import open_slots
from consilia.study.view import StudyView
from consilia.study.warm_start import read_warm_start
from consilia.study.weights import check_unchanged, check_weights, resolve_weights
from consilia.train.order import check_workers
from consilia.tune.contract import Audience
from consilia.tune.search import search_trials
from consilia.tune.single import train_one
from consilia.tune.warm_start import Start

logger = logging.getLogger(__name__)


def run_study(plan: StudyPlan, *, studies: Path, stores: Path, view: StudyView) -> StudyResult:
    """Prepare, search, train again what a fast build ships, combine and evaluate.

    Args:
        plan: The resolved study.
        studies: Folder of all studies.
        stores: Folder of all prepared image stores.
        view: Told of everything that happens.

    Raises:
        UserError: The plan does not fit the data, the folder or the disk.
        InterruptedStudyError: Ctrl-C; the same call goes on where this one stopped.
        RunError: No trial finished, a refit failed, the cluster cannot be used, or the disk is full.
    """
    start = read_warm_start(plan, studies)  # before the folder is made: its study.yaml would keep a name that is wrong
    with open_study(plan, studies) as folder, log_to(folder.log):
        for remark in start.remarks:
            logger.info("%s", remark)
            view.noted(remark)
        weights = resolve_weights(plan)
        if not is_over(plan, folder):
            check_weights(plan, weights, folder)  # before hours of decoding, while a person is watching
        else:
            check_unchanged(plan, weights, folder)
        # A cluster decodes on all its nodes, which must share a disk for the search in any case.
        on_cluster = plan.search.configuration is None and joins_cluster(plan.cluster)
        workers = functools.partial(ray_tasks, plan.cluster) if on_cluster else None
        store = prepare(plan.data, root=stores.absolute(), progress=view.preparing, workers=workers)
        folds = load_or_make_folds(plan, store, folder)
        if not is_over(plan, folder):
            check_disk(plan, folder)
            check_workers(plan.cluster.workers_per_trial, folds=folds, training=plan.training)
            _run_trials(plan, store, folds, folder, view, weights=weights, starts=start.starts)
        if not is_built(plan, folder, folds, recipe=plan.ensemble):
            missing = missing_refits(plan, folder, store, folds, recipe=plan.ensemble)
            train_refits(missing, plan, folder, store, folds, view=view)
        return combine(plan, folder, store, folds, recipe=plan.ensemble)


def load_or_make_folds(plan: StudyPlan, store: ImageStore, folder: StudyFolder) -> FoldPlan:
    """Return the study's folds: written once, the same for every trial, and checked for leaks each time.

    Raises:
        StudyError: The stored folds belong to other images: the data have changed since.
        DataError: The data cannot be divided so, or a patient stands on two sides.
    """
    if folder.folds.exists():
        folds = load_folds(folder.folds)
        if folds.store_digest != store.digest:
            raise StudyError(
                f"{folder.folds} was made for other images than {plan.data.path} holds now: the data have changed "
                "since the study was started.\nGive the study another name (--set name=...), or restore the data."
            )
    else:
        folds = make_folds(
            store,
            k=plan.folds.k,
            seed=plan.seed,
            test=plan.data.test,
            test_fraction=plan.data.test_fraction,
            on_leak=plan.data.on_leak,
        )
        folds.save(folder.folds, store)
    check_no_leak(folds, store)
    return folds


def _run_trials(
    plan: StudyPlan,
    store: ImageStore,
    folds: FoldPlan,
    folder: StudyFolder,
    view: StudyView,
    *,
    weights: WeightsSource,
    starts: Sequence[Start],
) -> None:
    prepare_context = functools.partial(training_context, plan, store, folds, folder, weights=weights)
    audience = Audience(view, Curves(folder, metric=plan.search.metric, noted=view.noted))
    if plan.search.configuration is not None:
        settle_end(plan, folder, train_one(plan, prepare_context(device="auto"), folder, audience))
        return
    with open_slots(plan, lambda device: prepare_context(device=device), view, n_tasks=plan.search.trials) as slots:
        controller = search_trials(
            plan, slots.context, folder, audience, capacity=slots.capacity, nodes=slots.nodes, starts=starts
        )
    settle_end(plan, folder, controller)
