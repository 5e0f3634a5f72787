"""The driver's book: what is written, told and resumed, with trials played by the test."""

import json
import math
from collections.abc import Sequence

import pytest
from search_records import Listener, epoch, task

from consilia.folder import StudyFolder
from consilia.plan.study import SearchPlan
from consilia.records import EpochReport, TrialOutcome, TrialRecord, TrialTask
from consilia.search.book import TrialBook, leaderboard, read_trials, stored_reports
from consilia.search.racing import EveryFold, Racing
from consilia.training.artifacts import write_history

K = 2


class Notebook:
    """A Suggester in memory."""

    def __init__(self, *, asked: int = 0, unfinished: Sequence[TrialTask] = ()) -> None:
        self.n_asked = asked
        self._unfinished = list(unfinished)
        self.told: list[TrialRecord] = []

    def ask(self) -> TrialTask:
        self.n_asked += 1
        return task(self.n_asked - 1)

    def unfinished(self) -> list[TrialTask]:
        return self._unfinished

    def tell(self, record: TrialRecord, *, metric: str) -> None:
        self.told.append(record)


class StopAll:
    """A Racing that stops everybody at once."""

    def hear(self, report: EpochReport) -> str | None:
        return "rank 9 of 9"


def open_book(
    folder: StudyFolder,
    listener: Listener,
    *,
    suggester: Notebook | None = None,
    racing: Racing | None = None,
    **plan: object,
) -> TrialBook:
    return TrialBook(
        SearchPlan.model_validate({"trials": 4, **plan}),
        folder=folder,
        n_folds=K,
        suggester=suggester or Notebook(),
        racing=racing or EveryFold(),
        observer=listener,
    )


def play(book: TrialBook, score: float) -> int:
    """Run the next trial to its end with the same score in every fold."""
    next_task = book.next_task()
    assert next_task is not None
    for fold in range(K):
        book.hear(epoch(next_task.number, fold, 1, score + 1))
        book.hear(epoch(next_task.number, fold, 2, score, ends_fold=True))
    book.end(TrialOutcome(number=next_task.number, state="finished"))
    return next_task.number


def stored(folder: StudyFolder, number: int) -> dict[str, object]:
    return json.loads(folder.trial(number).record.read_text())


def test_a_trial_is_on_disk_as_running_before_it_is_handed_out(folder: StudyFolder, listener: Listener):
    handed_out = open_book(folder, listener).next_task()
    assert stored(folder, 0)["state"] == "running"
    assert stored(folder, 0)["hyperparameters"]["lr"] == handed_out.hyperparameters.lr


def test_the_objective_is_the_mean_of_the_last_epochs_of_all_folds(folder: StudyFolder, listener: Listener):
    notebook = Notebook()
    book = open_book(folder, listener, suggester=notebook)
    book.next_task()
    for fold, score in enumerate((0.2, 0.6)):
        book.hear(epoch(0, fold, 1, 0.01))  # a better epoch that must not count
        book.hear(epoch(0, fold, 2, score, ends_fold=True))
    book.end(TrialOutcome(number=0, state="finished"))
    assert notebook.told[0].objective == pytest.approx(0.4)
    assert stored(folder, 0)["objective"] == pytest.approx(0.4)
    assert read_trials(folder)[0] == notebook.told[0] == listener.ended[0]


def test_the_budget_of_trials_is_kept(folder: StudyFolder, listener: Listener):
    book = open_book(folder, listener, trials=3)
    for _ in range(3):
        play(book, 0.5)
    assert book.next_task() is None


def test_a_stopped_trial_tells_its_last_score_and_why(folder: StudyFolder, listener: Listener):
    notebook = Notebook()
    book = open_book(folder, listener, suggester=notebook, racing=StopAll())
    book.next_task()
    assert book.hear(epoch(0, 0, 1, 0.7)) == "rank 9 of 9"
    book.stop(0)
    told = notebook.told[0]
    assert (told.state, told.objective, told.reason, told.n_folds) == ("stopped", 0.7, "rank 9 of 9", 0)


def test_a_failed_trial_has_no_objective(folder: StudyFolder, listener: Listener):
    notebook = Notebook()
    book = open_book(folder, listener, suggester=notebook)
    book.next_task()
    book.hear(epoch(0, 0, 1, 0.7))
    book.end(TrialOutcome(number=0, state="failed", reason="the loss is not finite"))
    assert (notebook.told[0].state, notebook.told[0].objective) == ("failed", None)


def test_an_ended_trial_cannot_end_again(folder: StudyFolder, listener: Listener):
    notebook = Notebook()
    book = open_book(folder, listener, suggester=notebook)
    play(book, 0.5)
    book.end(TrialOutcome(number=0, state="failed", reason="late"))
    assert [record.state for record in notebook.told] == ["finished"]


def test_interrupted_trials_come_first_and_use_no_budget(folder: StudyFolder, listener: Listener):
    open_book(folder, listener, trials=2).next_task()  # and the driver dies
    book = open_book(folder, listener, trials=2, suggester=Notebook(asked=1, unfinished=[task(0)]))
    assert book.next_task() == task(0)
    assert book.next_task() == task(1)
    assert book.next_task() is None


def test_an_end_that_optuna_never_heard_of_is_told_when_the_book_opens(folder: StudyFolder, listener: Listener):
    play(open_book(folder, listener), 0.5)  # stored in trial.json, and the driver dies before it tells Optuna
    notebook = Notebook(asked=1, unfinished=[task(0)])
    book = open_book(folder, listener, suggester=notebook)
    assert [record.objective for record in notebook.told] == [0.5]
    assert book.next_task() == task(1)


def test_weights_stay_for_the_best_trials_only_and_predictions_for_all(folder: StudyFolder, listener: Listener):
    book = open_book(folder, listener, keep_weights=2)
    for number, score in enumerate((0.5, 0.3, 0.4, 0.6)):
        for fold in range(K):
            files = folder.trial(number).fold(fold)
            files.root.mkdir(parents=True)
            files.weights.touch()
            files.oof.touch()
        assert play(book, score) == number
    kept = [number for number in range(4) if folder.trial(number).fold(0).weights.exists()]
    assert kept == [1, 2]
    assert all(folder.trial(number).fold(fold).oof.exists() for number in range(4) for fold in range(K))


def test_the_leaderboard_follows_the_metrics_direction_and_leaves_the_unfinished_out():
    def record(number: int, state: str, objective: float) -> TrialRecord:
        hyperparameters = task(number).hyperparameters
        return TrialRecord(number=number, state=state, hyperparameters=hyperparameters, objective=objective)

    records = {
        each.number: each
        for each in (
            record(0, "finished", 0.5),
            record(1, "finished", 0.9),
            record(2, "stopped", 0.1),
            record(3, "finished", 0.5),
            record(4, "running", math.nan),
        )
    }
    assert [each.number for each in leaderboard(records, metric="log_loss")] == [0, 3, 1]
    assert [each.number for each in leaderboard(records, metric="macro_auc")] == [1, 0, 3]


def test_stored_histories_come_back_as_reports_so_that_racing_remembers(folder: StudyFolder, listener: Listener):
    book = open_book(folder, listener, racing=StopAll())
    book.next_task()
    book.hear(epoch(0, 0, 1, 0.7))
    book.stop(0)
    row = {"epoch": 1, "train_loss": 0.9, "log_loss": 0.7, "macro_auc": 0.6, "lr": 1e-3, "seconds": 2.0, "images": 20}
    write_history(folder.trial(0).fold(0).history, [row, {**row, "epoch": 2, "log_loss": 0.65}])
    reports = list(stored_reports(folder, metric="log_loss"))
    assert [(each.number, each.fold, each.epoch, each.score) for each in reports] == [(0, 0, 1, 0.7), (0, 0, 2, 0.65)]
