"""Train refits: in slots on the cluster, or one after the other in this process."""

import functools
from collections.abc import Mapping, Sequence

from consilia.config.records import EpochReport, TaskTaken, TrialTask
from consilia.config.study import ClusterProfile
from consilia.config.study_folder import StudyFolder
from consilia.train.context import TrainingContext
from consilia.train.refit import refit
from consilia.tune.capacity import Capacity, Node
from consilia.tune.interrupt import StopSignal
from consilia.tune.ledger import Ledger
from consilia.tune.live import LiveSlots
from consilia.tune.nodes import living_nodes
from consilia.tune.refit_controller import RefitController, RefitView
from consilia.tune.slot import SlotOptions
from consilia.tune.tuner import run_in_slots


def refit_in_slots(
    tasks: Sequence[TrialTask],
    context: TrainingContext,
    folder: StudyFolder,
    view: RefitView,
    *,
    profile: ClusterProfile,
    capacity: Capacity,
    nodes: Mapping[str, Node],
) -> RefitController:
    """Train the refits in slots, as the search trains trials. Ray must be connected.

    Args:
        tasks: Of the trials, at least one.
        context: What the study's trials share.
        folder: Of the study.
        view: Told of everything.
        profile: Of the cluster.
        capacity: The slots that `nodes` hold.
        nodes: The cluster's, before anything of it is taken; nodes that come later add slots.

    Returns:
        The controller; some are neither finished nor failed if the user stopped them or the disk is full.
    """
    share = capacity.share
    devices = capacity.workers * (share.gpus or share.cpus)
    controller = RefitController(
        tasks,
        ledger=Ledger(folder.ledger, devices=devices, useful="refit"),
        view=view,
        n_slots=capacity.n_slots,
        has_exclusive_slots=capacity.exclusive is not None,
    )
    options = SlotOptions(
        run_trial=functools.partial(refit, context=context),
        n_folds=0,
        noun="refit",
        share=share,
        exclusive=capacity.exclusive,
        n_workers=capacity.workers,
        hang_seconds=profile.hang_seconds,
        storage=str(folder.ray / "train"),
    )
    live = LiveSlots(capacity, living_nodes, limit=min(profile.max_slots or len(tasks), len(tasks)), seen=nodes)
    try:
        run_in_slots(controller, n_slots=live.count, options=options, storage=folder.ray)
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
