"""The study, every step from top to bottom; a step whose result is stored is not repeated."""

import functools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from consilia.cluster.connection import connect, joins_cluster
from consilia.cluster.tasks import ray_tasks
from consilia.data.folds import FoldPlan, check_no_leak, load_folds, make_folds
from consilia.data.prepare import prepare
from consilia.data.store import ImageStore
from consilia.errors import StudyError
from consilia.folder import StudyFolder
from consilia.plan.study import StudyPlan
from consilia.plan.weights import WeightsSource
from consilia.report.curves import Curves
from consilia.search.capacity import describe_capacity, plan_capacity
from consilia.search.demand import worker_demand
from consilia.search.engine import search_trials
from consilia.search.nodes import living_nodes, measure_steps
from consilia.search.observer import Audience, SearchObserver
from consilia.search.single import train_one
from consilia.search.space import join_spaces
from consilia.search.warm_start import Start
from consilia.study.combine import StudyResult, combine
from consilia.study.end import is_over, settle_end
from consilia.study.folder import open_study
from consilia.study.preflight import check_disk
from consilia.study.steps import demanding_steps
from consilia.study.warm_start import read_warm_start
from consilia.study.weights import check_unchanged, check_weights, resolve_weights
from consilia.training.context import TrainingContext
from consilia.training.order import check_workers

logger = logging.getLogger(__name__)


class StudyView(SearchObserver, Protocol):
    """Who watches a study."""

    def preparing(self, done: int, total: int) -> None:
        """Images decoded so far."""

    def connected(self, *, dashboard: str, token_file: str) -> None:
        """Ray is there, and can be watched at this address with this file's token."""


def run_study(plan: StudyPlan, *, studies: Path, stores: Path, view: StudyView) -> StudyResult:
    """Prepare, search, combine and evaluate.

    Args:
        plan: The resolved study.
        studies: Folder of all studies.
        stores: Folder of all prepared image stores.
        view: Told of everything that happens.

    Raises:
        UserError: The plan does not fit the data, the folder or the disk.
        InterruptedStudyError: Ctrl-C; the same call goes on where this one stopped.
        RunError: No trial finished, the cluster cannot be used, or the disk is full.
    """
    start = read_warm_start(plan, studies)  # before the folder is made: its study.yaml would keep a name that is wrong
    with open_study(plan, studies) as folder, _log_to(folder.log):
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
        pool = functools.partial(ray_tasks, plan.cluster) if on_cluster else None
        store = prepare(plan.data, root=stores.absolute(), progress=view.preparing, pool=pool)
        folds = load_or_make_folds(plan, store, folder)
        if not is_over(plan, folder):
            check_disk(plan, folder)
            check_workers(plan.cluster.workers_per_trial, folds=folds, training=plan.training)
            _run_trials(plan, store, folds, folder, view, weights=weights, starts=start.starts)
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


def training_context(
    plan: StudyPlan, store: ImageStore, folds: FoldPlan, folder: StudyFolder, *, device: str, weights: WeightsSource
) -> TrainingContext:
    """Return what all trials of a study share."""
    return TrainingContext(
        store_folder=store.folder,
        folds=folds,
        training=plan.training,
        policy=plan.data.augmentation,
        architectures=join_spaces(plan.spaces, weights=plan.training.weights).architectures,
        metric=plan.search.metric,
        trials=folder.trials,
        seed=plan.seed,
        device=device,
        weights=weights,
        image_size=plan.image_size,
    )


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
    with connect(plan.cluster) as connection:
        view.connected(dashboard=connection.dashboard, token_file=connection.token_file)
        nodes = living_nodes()
        measured = measure_steps(demanding_steps(plan, prepare_context(device="auto")), plan.cluster, nodes)
        demand = worker_demand(
            plan.cluster,
            [node.total for node in nodes.values()],
            measured=measured,
            images_bytes=store.pixels.nbytes,
        )
        capacity = plan_capacity(nodes, plan.cluster, demand=demand, n_trials=plan.search.trials)
        logger.info("%s", describe_capacity(capacity, demand))
        device = "cuda" if capacity.share.gpus else "cpu"
        context = prepare_context(device=device)
        view.noted(describe_capacity(capacity, demand))
        book = search_trials(plan, context, folder, audience, capacity=capacity, nodes=nodes, starts=starts)
    settle_end(plan, folder, book)


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Append what consilia logs to the study's run.log."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("consilia")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
