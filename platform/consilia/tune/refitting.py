"""Train refits, and confirmations, in slots on the cluster; or refits one after the other in this process."""

from collections.abc import Sequence
from typing import Literal

from consilia.config.records import ALL_FOLDS, EpochReport, TaskTaken, TrialTask
from consilia.config.study_folder import StudyFolder
from consilia.train.context import TrainingContext
from consilia.train.refit import refit
from consilia.train.tasks import train_refit, train_trial
from consilia.tune.capacity import Capacity
from consilia.tune.contract import RefitView
from consilia.tune.driver_disk import BrokerDisk
from consilia.tune.far_training import FarTraining, weights_files
from consilia.tune.interrupt import StopSignal
from consilia.tune.ledger import Ledger
from consilia.tune.refit_controller import RefitController
from consilia.tune.tuner import run_in_slots
from consilia.tune.worker_groups import WorkerGroups


def refit_in_slots(
    tasks: Sequence[TrialTask],
    context: TrainingContext,
    folder: StudyFolder,
    view: RefitView,
    *,
    capacity: Capacity,
    groups: WorkerGroups,
    noun: Literal["refit", "confirmation"] = "refit",
) -> RefitController:
    """Train the refits, or confirmations, in slots, as the search trains trials. Ray must be connected.

    Args:
        tasks: Of the trials, at least one.
        context: What the study's trials share; for confirmations with their own folds, seed and folder.
        folder: Of the study.
        view: Told of everything.
        capacity: The slots of the cluster.
        groups: Workers with that capacity's share.
        noun: Refits train once, on the images of all folds; confirmations as many times as there are folds.

    Returns:
        The controller; some are neither finished nor failed if the user stopped them or the disk is full.
    """
    controller = RefitController(
        tasks,
        ledger=Ledger(folder.ledger, devices=groups.devices_per_slot, useful=noun),
        view=view,
        n_slots=capacity.n_slots,
        noun=noun,
        has_exclusive_slots=capacity.exclusive is not None,
    )
    training = FarTraining(
        train=train_refit if noun == "refit" else train_trial,
        context=context,
        folds=(ALL_FOLDS,) if noun == "refit" else tuple(range(context.folds.k)),
        weights=weights_files(context, folder),
        disk=BrokerDisk(groups.broker),
    )
    try:
        run_in_slots(
            controller,
            groups=groups,
            run_trial=training.run,
            prove=training.prove,
            n_folds=0 if noun == "refit" else context.folds.k,
            noun=noun,
            storage=folder.ray,
        )
    finally:
        controller.close()
    return controller


def refit_here(
    tasks: Sequence[TrialTask], context: TrainingContext, folder: StudyFolder, view: RefitView
) -> RefitController:
    """Train the refits in this process, with no Ray; Ctrl-C leaves the one under way at its checkpoint.

    Returns:
        As `refit_in_slots`.
    """
    controller = RefitController(tasks, ledger=Ledger(folder.ledger, useful="refit"), view=view, n_slots=1)
    stop = StopSignal()

    def listen(report: EpochReport) -> None:
        controller.hear(report)

    controller.reserve(1)
    try:
        with stop.listening():
            while not stop.raised and (task := controller.next_task()) is not None:
                controller.taken(TaskTaken(number=task.number, attempt=1))
                outcome = refit(task, context, report=listen, stopped=lambda: stop.raised)
                if outcome.state != "stopped":
                    controller.end(outcome)
    finally:
        controller.close()
    return controller
