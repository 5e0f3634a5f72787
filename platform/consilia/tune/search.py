"""The search of a study: its controller, its slots, and Ray Tune between them."""

import functools
from collections.abc import Sequence

from consilia.config.study import StudyPlan
from consilia.config.study_folder import StudyFolder
from consilia.metrics.scores import METRICS
from consilia.train.context import TrainingContext
from consilia.train.tasks import train_trial
from consilia.tune.capacity import Capacity
from consilia.tune.contract import SearchObserver
from consilia.tune.controller import TrialController
from consilia.tune.driver_disk import BrokerDisk
from consilia.tune.far_training import FarTraining, weights_files
from consilia.tune.ledger import Ledger
from consilia.tune.limits import Limits, objective_noise
from consilia.tune.racing import make_racing
from consilia.tune.search_metrics import SearchMetrics
from consilia.tune.space import join_spaces
from consilia.tune.stored import read_trials, stored_reports
from consilia.tune.suggester import OptunaSuggester
from consilia.tune.tuner import run_in_slots
from consilia.tune.warm_start import Start
from consilia.tune.worker_groups import WorkerGroups


def search_trials(
    plan: StudyPlan,
    context: TrainingContext,
    folder: StudyFolder,
    observer: SearchObserver,
    *,
    capacity: Capacity,
    groups: WorkerGroups,
    starts: Sequence[Start] = (),
    retry_failed: bool = False,
) -> TrialController:
    """Run the trials that the plan still wants, in slots. Ray must be connected.

    Args:
        plan: The study.
        context: What its trials share.
        folder: Of the study.
        observer: Told of everything.
        capacity: The slots of the cluster.
        groups: Workers with that capacity's share.
        starts: Configurations of earlier studies, to be tried first.
        retry_failed: Try the configurations of failed trials again, each under a new number.

    Returns:
        The controller of all trials; some are paused if the search ended before they did.
    """
    ledger = Ledger(folder.ledger, devices=groups.devices_per_slot)
    has_exclusive_slots = capacity.exclusive is not None
    controller = open_controller(
        plan,
        folder,
        observer,
        ledger=ledger,
        has_exclusive_slots=has_exclusive_slots,
        starts=starts,
        retry_failed=retry_failed,
    )
    observer.search_started(
        n_trials=plan.search.trials, n_slots=capacity.n_slots, records=tuple(controller.records.values())
    )
    training = FarTraining(
        train=train_trial,
        context=context,
        folds=tuple(range(plan.folds.k)),
        weights=weights_files(context, folder),
        disk=BrokerDisk(groups.broker),
    )
    metrics = SearchMetrics(plan.name, plan.search.metric, controller, groups)
    try:
        run_in_slots(
            controller,
            groups=groups,
            run_trial=training.run,
            prove=training.prove,
            n_folds=plan.folds.k,
            storage=folder.ray,
            turn=metrics.turn,
        )
    finally:
        controller.close("the search was interrupted")
        metrics.close()
    return controller


def open_controller(
    plan: StudyPlan,
    folder: StudyFolder,
    observer: SearchObserver,
    *,
    ledger: Ledger,
    has_exclusive_slots: bool = False,
    starts: Sequence[Start] = (),
    retry_failed: bool = False,
) -> TrialController:
    """Open the study's journal and trials, and feed the racing what earlier runs have reported."""
    higher_is_better = bool(METRICS[plan.search.metric].higher_is_better)
    racing = make_racing(plan)
    for report in stored_reports(folder, metric=plan.search.metric):
        racing.hear(report)
    suggester = OptunaSuggester(
        folder.journal,
        join_spaces(plan.spaces, weights=plan.training.weights),
        name=plan.name,
        seed=plan.seed,
        higher_is_better=higher_is_better,
        starts=starts,
    )
    if retry_failed:
        suggester.retry(read_trials(folder))
    return TrialController(
        plan.search,
        folder=folder,
        n_folds=plan.folds.k,
        suggester=suggester,
        racing=racing,
        observer=observer,
        limits=Limits(
            plan.search.budget,
            ledger,
            higher_is_better=higher_is_better,
            noise=functools.partial(objective_noise, folder=folder, metric=plan.search.metric),
        ),
        has_exclusive_slots=has_exclusive_slots,
    )
