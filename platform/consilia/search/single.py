"""Train one given configuration in this process: cross-validated, with no search and no Ray."""

from consilia.folder import StudyFolder
from consilia.plan.study import StudyPlan
from consilia.records import EpochReport, TaskTaken
from consilia.search.book import TrialBook
from consilia.search.interrupt import StopSignal
from consilia.search.ledger import Ledger
from consilia.search.limits import Limits
from consilia.search.observer import SearchObserver
from consilia.search.racing import EveryFold
from consilia.search.stored import read_trials
from consilia.search.suggester import OneConfiguration
from consilia.training.context import TrainingContext
from consilia.training.crossval import cross_validate


def train_one(plan: StudyPlan, context: TrainingContext, folder: StudyFolder, observer: SearchObserver) -> TrialBook:
    """Train `plan.search.configuration` on every fold that is not stored yet.

    Returns:
        The book with trial 0; it is paused if Ctrl-C or the budget came first.
    """
    assert plan.search.configuration is not None, "the plan of `train` names a configuration"
    book = TrialBook(
        plan.search.model_copy(update={"trials": 1}),
        folder=folder,
        n_folds=plan.folds.k,
        suggester=OneConfiguration(plan.search.configuration, known=read_trials(folder)),
        racing=EveryFold(),
        observer=observer,
        limits=Limits(plan.search.budget, Ledger(folder.ledger)),
    )
    observer.search_started(n_trials=1, n_slots=1, records=tuple(book.records.values()))
    stop = StopSignal()
    try:
        _train(book, context, stop)
    finally:
        book.close("the training was interrupted")
    return book


def _train(book: TrialBook, context: TrainingContext, stop: StopSignal) -> None:
    book.reserve(1)
    task = book.next_task()
    if task is None:
        return
    book.taken(TaskTaken(number=task.number, attempt=1))
    leaves = False

    def listen(report: EpochReport) -> None:
        nonlocal leaves
        leaves = book.hear(report) is not None

    with stop.listening():
        outcome = cross_validate(
            task, context, report=listen, stopped=lambda: stop.raised or leaves or bool(book.must_leave())
        )
    if outcome.state != "stopped":
        book.end(outcome)
    book.left(task.number)
