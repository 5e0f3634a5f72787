"""Train one given configuration in this process: cross-validated, with no search and no Ray."""

from consilia.folder import StudyFolder
from consilia.plan.study import StudyPlan
from consilia.records import EpochReport
from consilia.search.book import TrialBook, read_trials
from consilia.search.interrupt import StopSignal
from consilia.search.observer import SearchObserver
from consilia.search.racing import EveryFold
from consilia.search.suggester import OneConfiguration
from consilia.training.context import TrainingContext
from consilia.training.crossval import cross_validate


def train_one(plan: StudyPlan, context: TrainingContext, folder: StudyFolder, observer: SearchObserver) -> TrialBook:
    """Train `plan.search.configuration` on every fold that is not stored yet.

    Returns:
        The book with trial 0; it is unfinished if Ctrl-C came first.
    """
    assert plan.search.configuration is not None, "the plan of `train` names a configuration"
    book = TrialBook(
        plan.search.model_copy(update={"trials": 1}),
        folder=folder,
        n_folds=plan.folds.k,
        suggester=OneConfiguration(plan.search.configuration, known=read_trials(folder)),
        racing=EveryFold(),
        observer=observer,
    )
    observer.search_started(n_trials=1, n_slots=1, records=tuple(book.records.values()))
    task = book.next_task()
    if task is None:
        return book

    def listen(report: EpochReport) -> None:
        book.hear(report)

    stop = StopSignal()
    with stop.listening():
        outcome = cross_validate(task, context, report=listen, stopped=lambda: stop.raised)
    if outcome.state != "stopped":
        book.end(outcome)
    return book
