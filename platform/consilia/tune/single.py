"""Train one given configuration in this process: cross-validated, with no search and no Ray."""

from consilia.config.records import EpochReport, TaskTaken
from consilia.config.study import StudyPlan
from consilia.config.study_folder import StudyFolder
from consilia.train.context import TrainingContext
from consilia.train.cross_validation import cross_validate
from consilia.tune.contract import SearchObserver
from consilia.tune.controller import TrialController
from consilia.tune.interrupt import StopSignal
from consilia.tune.ledger import Ledger
from consilia.tune.limits import Limits
from consilia.tune.racing import EveryFold
from consilia.tune.stored import read_trials
from consilia.tune.suggester import OneConfiguration


def train_one(
    plan: StudyPlan, context: TrainingContext, folder: StudyFolder, observer: SearchObserver
) -> TrialController:
    """Train `plan.search.configuration` on every fold that is not stored yet.

    Returns:
        The controller with trial 0; it is paused if Ctrl-C or the budget came first.
    """
    assert plan.search.configuration is not None, "the plan of `train` names a configuration"
    controller = TrialController(
        plan.search.model_copy(update={"trials": 1}),
        folder=folder,
        n_folds=plan.folds.k,
        suggester=OneConfiguration(plan.search.configuration, known=read_trials(folder)),
        racing=EveryFold(),
        observer=observer,
        limits=Limits(plan.search.budget, Ledger(folder.ledger)),
    )
    observer.search_started(n_trials=1, n_slots=1, records=tuple(controller.records.values()))
    stop = StopSignal()
    try:
        _train(controller, context, stop)
    finally:
        controller.close("the training was interrupted")
    return controller


def _train(controller: TrialController, context: TrainingContext, stop: StopSignal) -> None:
    controller.reserve(1)
    task = controller.next_task()
    if task is None:
        return
    controller.taken(TaskTaken(number=task.number, attempt=1))
    leaves = False

    def listen(report: EpochReport) -> None:
        nonlocal leaves
        leaves = controller.hear(report) is not None

    with stop.listening():
        outcome = cross_validate(
            task, context, report=listen, stopped=lambda: stop.raised or leaves or bool(controller.must_leave())
        )
    if outcome.state != "stopped":
        controller.end(outcome)
    controller.left(task.number)
