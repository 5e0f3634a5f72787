"""The driver's controller: what is written, told and resumed, with trials played by the test."""

import errno
import json
import math
import os
from collections.abc import Sequence
from dataclasses import replace

import pytest
from search_records import Listener, epoch, task

from consilia.config.records import EpochReport, TaskTaken, TrialOutcome, TrialRecord, TrialTask
from consilia.config.study import Budget, SearchPlan
from consilia.config.study_folder import StudyFolder
from consilia.train.tables import write_history
from consilia.tune.controller import TrialController
from consilia.tune.ledger import Ledger
from consilia.tune.limits import Limits
from consilia.tune.progress import FAILURES_IN_A_ROW, FIRST_FAILURES
from consilia.tune.racing import EveryFold, Racing
from consilia.tune.stored import leaderboard, read_trials, stored_reports

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

    def resume(self, number: int) -> None:
        self.resumed = number

    def tell(self, record: TrialRecord, *, metric: str) -> None:
        self.told.append(record)


class StopAll(EveryFold):
    """Stops everybody at once, and takes a fold effect of 0.1 from every score."""

    def hear(self, report: EpochReport) -> str | None:
        return "rank 9 of 9"

    def adjusted(self, scores: Sequence[float]) -> float:
        return super().adjusted(scores) - 0.1


def open_controller(
    folder: StudyFolder,
    listener: Listener,
    *,
    suggester: Notebook | None = None,
    racing: Racing | None = None,
    limits: Limits | None = None,
    has_exclusive_slots: bool = False,
    **plan: object,
) -> TrialController:
    return TrialController(
        SearchPlan.model_validate({"trials": 4, **plan}),
        folder=folder,
        n_folds=K,
        suggester=suggester or Notebook(),
        racing=racing or EveryFold(),
        observer=listener,
        limits=limits or Limits(Budget(), Ledger()),
        has_exclusive_slots=has_exclusive_slots,
    )


def play(controller: TrialController, score: float) -> int:
    """Run the next trial to its end with the same score in every fold."""
    next_task = controller.next_task()
    assert next_task is not None
    for fold in range(K):
        controller.hear(epoch(next_task.number, fold, 1, score + 1))
        controller.hear(epoch(next_task.number, fold, 2, score, ends_fold=True))
    controller.end(TrialOutcome(number=next_task.number, state="finished"))
    return next_task.number


def stored(folder: StudyFolder, number: int) -> dict[str, object]:
    return json.loads(folder.trial(number).record.read_text())


def test_a_trial_is_on_disk_as_running_before_it_is_handed_out(folder: StudyFolder, listener: Listener):
    handed_out = open_controller(folder, listener).next_task()
    assert stored(folder, 0)["state"] == "running"
    assert stored(folder, 0)["hyperparameters"]["lr"] == handed_out.hyperparameters.lr


def test_the_objective_is_the_mean_of_the_last_epochs_of_all_folds(folder: StudyFolder, listener: Listener):
    notebook = Notebook()
    controller = open_controller(folder, listener, suggester=notebook)
    controller.next_task()
    for fold, score in enumerate((0.2, 0.6)):
        controller.hear(epoch(0, fold, 1, 0.01))  # a better epoch that must not count
        controller.hear(epoch(0, fold, 2, score, ends_fold=True))
    controller.end(TrialOutcome(number=0, state="finished"))
    assert notebook.told[0].objective == pytest.approx(0.4)
    assert stored(folder, 0)["objective"] == pytest.approx(0.4)
    assert read_trials(folder)[0] == notebook.told[0] == listener.ended[0]


def test_the_budget_of_trials_is_kept(folder: StudyFolder, listener: Listener):
    controller = open_controller(folder, listener, trials=3)
    for _ in range(3):
        play(controller, 0.5)
    assert controller.next_task() is None


def test_a_stopped_trial_tells_its_score_without_the_folds_effect_and_why(folder: StudyFolder, listener: Listener):
    notebook = Notebook()
    controller = open_controller(folder, listener, suggester=notebook, racing=StopAll())
    controller.next_task()
    assert controller.hear(epoch(0, 0, 1, 0.7)) == "rank 9 of 9"
    controller.left(0)
    told = notebook.told[0]
    assert (told.state, told.reason, told.n_folds) == ("stopped", "rank 9 of 9", 0)
    assert told.objective == pytest.approx(0.6)


class StopAtTwo(StopAll):
    """Stops everybody after two epochs."""

    def hear(self, report: EpochReport) -> str | None:
        return super().hear(report) if report.epoch == 2 else None


def test_a_trial_stopped_after_an_epoch_that_was_not_scored_tells_its_last_score(
    folder: StudyFolder, listener: Listener
):
    notebook = Notebook()
    controller = open_controller(folder, listener, suggester=notebook, racing=StopAtTwo())
    controller.next_task()
    assert controller.hear(epoch(0, 0, 1, 0.7)) is None
    assert controller.hear(epoch(0, 0, 2, math.nan)) == "rank 9 of 9"
    controller.left(0)
    assert notebook.told[0].objective == pytest.approx(0.6)


def test_a_failed_trial_has_no_objective(folder: StudyFolder, listener: Listener):
    notebook = Notebook()
    controller = open_controller(folder, listener, suggester=notebook)
    controller.next_task()
    controller.hear(epoch(0, 0, 1, 0.7))
    controller.end(TrialOutcome(number=0, state="failed", reason="the loss is not finite"))
    assert (notebook.told[0].state, notebook.told[0].objective) == ("failed", None)


def test_an_ended_trial_cannot_end_again(folder: StudyFolder, listener: Listener):
    notebook = Notebook()
    controller = open_controller(folder, listener, suggester=notebook)
    play(controller, 0.5)
    controller.end(TrialOutcome(number=0, state="failed", reason="late"))
    assert [record.state for record in notebook.told] == ["finished"]


def test_interrupted_trials_come_first_and_use_no_budget(folder: StudyFolder, listener: Listener):
    open_controller(folder, listener, trials=2).next_task()  # and the driver dies
    controller = open_controller(folder, listener, trials=2, suggester=Notebook(asked=1, unfinished=[task(0)]))
    assert controller.next_task() == task(0)
    assert controller.next_task() == task(1)
    assert controller.next_task() is None


def test_an_end_that_optuna_never_heard_of_is_told_when_the_controller_starts(folder: StudyFolder, listener: Listener):
    play(open_controller(folder, listener), 0.5)  # stored in trial.json, and the driver dies before it tells Optuna
    notebook = Notebook(asked=1, unfinished=[task(0)])
    controller = open_controller(folder, listener, suggester=notebook)
    assert [record.objective for record in notebook.told] == [0.5]
    assert controller.next_task() == task(1)


def test_weights_stay_for_the_best_trials_only_and_predictions_for_all(folder: StudyFolder, listener: Listener):
    controller = open_controller(folder, listener, keep_weights=2)
    for number, score in enumerate((0.5, 0.3, 0.4, 0.6)):
        for fold in range(K):
            files = folder.trial(number).fold(fold)
            files.root.mkdir(parents=True)
            files.weights.touch()
            files.oof.touch()
        assert play(controller, score) == number
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
    controller = open_controller(folder, listener, racing=StopAll())
    controller.next_task()
    controller.hear(epoch(0, 0, 1, 0.7))
    assert controller.left(0)
    row = {"epoch": 1, "train_loss": 0.9, "log_loss": 0.7, "macro_auc": 0.6, "lr": 1e-3, "seconds": 2.0, "images": 20}
    write_history(folder.trial(0).fold(0).history, [row, {**row, "epoch": 2, "log_loss": 0.65}])
    reports = list(stored_reports(folder, metric="log_loss"))
    assert [(each.number, each.fold, each.epoch, each.score) for each in reports] == [(0, 0, 1, 0.7), (0, 0, 2, 0.65)]


class Clock:
    """Moves when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_lost_worker_is_said_and_the_first_one_is_not(folder: StudyFolder, listener: Listener):
    controller = open_controller(folder, listener)
    controller.next_task()
    controller.taken(TaskTaken(number=0, attempt=1))
    assert listener.notes == []
    controller.taken(TaskTaken(number=0, attempt=2, reason="it showed no sign of life for 900 s"))
    assert "trial 0: its worker was lost (it showed no sign of life for 900 s)" in listener.notes[0]


def test_epochs_that_are_only_repeated_are_not_decided_on_again(folder: StudyFolder, listener: Listener):
    controller = open_controller(folder, listener, racing=StopAll())
    controller.next_task()
    assert controller.hear(replace(epoch(0, 0, 1, 0.7), is_repeat=True)) is None
    assert controller.hear(epoch(0, 0, 2, 0.7)) == "rank 9 of 9"


def test_closing_pauses_what_runs_and_leaves_nothing_running(folder: StudyFolder, listener: Listener):
    notebook = Notebook()
    controller = open_controller(folder, listener, suggester=notebook)
    play(controller, 0.5)
    controller.next_task()
    controller.hear(epoch(1, 0, 1, 0.7))
    controller.close("Ctrl-C")
    assert [(stored(folder, number)["state"], stored(folder, number)["reason"]) for number in (0, 1)] == [
        ("finished", ""),
        ("paused", "Ctrl-C"),
    ]
    assert (notebook.told[-1].state, notebook.told[-1].objective) == ("paused", None)
    assert (controller.n_running, controller.ended_by()) == (0, "")


def test_a_paused_trial_goes_on_under_its_number_in_the_next_run(folder: StudyFolder, listener: Listener):
    controller = open_controller(folder, listener)
    paused = controller.next_task()
    controller.close("Ctrl-C")
    notebook = Notebook(asked=1, unfinished=[task(0)])
    again = open_controller(folder, listener, suggester=notebook)
    assert again.next_task() == paused
    assert notebook.resumed == 0


def test_seconds_of_a_resumed_trial_count_every_fold_once(folder: StudyFolder, listener: Listener):
    controller = open_controller(folder, listener)
    controller.next_task()
    controller.hear(replace(epoch(0, 0, 2, 0.4, ends_fold=True), is_repeat=True))  # a stored fold: its last epoch only
    controller.hear(replace(epoch(0, 1, 1, 0.5), is_repeat=True))
    controller.hear(epoch(0, 1, 2, 0.4, ends_fold=True))
    controller.end(TrialOutcome(number=0, state="finished"))
    assert stored(folder, 0)["seconds"] == pytest.approx(2.0)  # search_records: a fold takes 1 s


def test_a_trial_without_memory_gets_an_exclusive_slot_once_and_after_all_others(
    folder: StudyFolder, listener: Listener
):
    controller = open_controller(folder, listener, trials=2, has_exclusive_slots=True)
    controller.next_task()
    short = TrialOutcome(number=0, state="failed", fault="memory", reason="out of memory with batches of 64")
    controller.end(short)
    assert listener.ended == []
    assert "a slot with more memory" in listener.notes[0]
    assert play(controller, 0.5) == 1
    again = controller.next_task()
    assert (again.number, again.exclusive) == (0, True)
    controller.end(short)
    assert (listener.ended[-1].number, listener.ended[-1].state) == (0, "failed")
    assert controller.ended_by() == "all 2 trials are done"


def test_a_trial_without_memory_fails_at_once_where_no_slot_is_exclusive(folder: StudyFolder, listener: Listener):
    controller = open_controller(folder, listener)
    controller.next_task()
    controller.end(TrialOutcome(number=0, state="failed", fault="memory", reason="out of memory with batches of 64"))
    assert [record.state for record in listener.ended] == ["failed"]


def test_a_full_disk_of_a_worker_halts_the_search_and_pauses_its_trial(folder: StudyFolder, listener: Listener):
    controller = open_controller(folder, listener)
    controller.next_task()
    controller.next_task()
    controller.end(TrialOutcome(number=0, state="paused", fault="disk", reason="no space left for checkpoint.pt"))
    assert "no space left" in controller.must_leave()
    assert controller.next_task() is None
    controller.close("the search ended")
    assert [stored(folder, number)["state"] for number in (0, 1)] == ["paused", "paused"]
    assert controller.ended_by() == ""


class FullDisk(Notebook):
    """The journal cannot be written."""

    def tell(self, record: TrialRecord, *, metric: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "optuna.journal")


def test_a_full_disk_of_the_driver_halts_the_search_without_an_exception(folder: StudyFolder, listener: Listener):
    controller = open_controller(folder, listener, suggester=FullDisk())
    play(controller, 0.5)
    assert controller.must_leave() == "optuna.journal: No space left on device"
    assert controller.next_task() is None
    assert stored(folder, 0)["state"] == "finished"


def test_a_budget_of_hours_ends_the_search_at_once(folder: StudyFolder, listener: Listener):
    clock = Clock()
    controller = open_controller(folder, listener, limits=Limits(Budget(hours=1), Ledger(clock=clock)))
    controller.reserve(1)
    controller.next_task()
    assert controller.must_leave() == ""
    clock.now = 3600.0
    assert "1 hours" in controller.must_leave()
    controller.close("the search ended")
    assert stored(folder, 0)["state"] == "paused"
    assert controller.ended_by() == "the budget of 1 hours is used up"


def test_without_patience_left_running_folds_end_and_nothing_new_begins(folder: StudyFolder, listener: Listener):
    controller = open_controller(folder, listener, trials=9, limits=Limits(Budget(patience=2), Ledger()))
    play(controller, 0.5)
    running = controller.next_task()
    play(controller, 0.6)
    play(controller, 0.6)
    assert controller.next_task() is None
    assert controller.hear(epoch(running.number, 0, 1, 0.4)) is None  # in the middle of a fold
    reason = controller.hear(epoch(running.number, 0, 2, 0.4, ends_fold=True))
    assert "no gain beyond the noise" in reason
    controller.left(running.number)
    assert stored(folder, running.number)["state"] == "paused"
    assert controller.ended_by() == reason


def test_the_last_fold_of_a_trial_is_not_paused_but_finished(folder: StudyFolder, listener: Listener):
    controller = open_controller(folder, listener, trials=9, limits=Limits(Budget(patience=1), Ledger()))
    play(controller, 0.5)
    running = controller.next_task()
    controller.hear(epoch(running.number, 0, 2, 0.4, ends_fold=True))
    play(controller, 0.6)
    assert controller.hear(epoch(running.number, 1, 2, 0.4, ends_fold=True)) is None
    controller.end(TrialOutcome(number=running.number, state="finished"))
    assert stored(folder, running.number)["state"] == "finished"


def test_stored_folds_come_back_so_that_the_fold_pruner_remembers(folder: StudyFolder, listener: Listener):
    play(open_controller(folder, listener), 0.5)
    row = {"epoch": 2, "train_loss": 0.9, "log_loss": 0.5, "macro_auc": 0.6, "lr": 1e-3, "seconds": 2.0, "images": 20}
    write_history(folder.trial(0).fold(0).history, [{**row, "epoch": 1}, row])
    reports = list(stored_reports(folder, metric="log_loss"))
    ends = [(report.fold, report.epoch, report.fold_result is not None) for report in reports]
    assert ends == [(0, 1, False), (0, 2, True), (1, 2, True)]
    assert all(report.is_repeat for report in reports)


def test_a_trial_whose_slot_is_lost_goes_on_before_any_new_one(folder: StudyFolder, listener: Listener):
    notebook = Notebook()
    controller = open_controller(folder, listener, suggester=notebook)
    first = controller.next_task()
    controller.hear(epoch(0, 0, 1, 0.5))
    controller.lost(0, "its process died")
    assert (controller.n_running, notebook.told) == (0, [])
    assert controller.next_task() == first
    assert listener.notes == ["trial 0: its slot was lost (its process died); another goes on with it"]


def test_a_trial_that_loses_slot_after_slot_at_the_same_epoch_fails(folder: StudyFolder, listener: Listener):
    controller = open_controller(folder, listener)
    for at in (1, 2, 2, 2):  # the first loss is followed by a new epoch
        controller.next_task()
        controller.taken(TaskTaken(number=0, attempt=1))
        controller.hear(epoch(0, 0, at, 0.5))
        controller.lost(0, "its process died")
        assert controller.n_running == 0
    controller.next_task()
    controller.taken(TaskTaken(number=0, attempt=1))
    controller.hear(epoch(0, 0, 2, 0.5))
    controller.lost(0, "its process died")
    (record,) = listener.ended
    assert (record.number, record.state) == (0, "failed")
    assert record.reason == "its slot was lost 4 times without a new epoch: its process died"
    assert controller.next_task().number == 1


def test_slots_that_die_before_a_worker_has_begun_are_not_the_trials_fault_for_long(
    folder: StudyFolder, listener: Listener
):
    controller = open_controller(folder, listener)
    for _ in range(20):
        assert controller.next_task().number == 0
        controller.lost(0, "its process died")
    assert listener.ended == []
    controller.next_task()
    controller.lost(0, "its process died")
    assert "its slot was lost 21 times" in listener.ended[0].reason


def test_a_trial_that_finds_no_slot_waits_however_often(folder: StudyFolder, listener: Listener):
    controller = open_controller(folder, listener)
    for _ in range(10):
        assert controller.next_task().number == 0
        controller.lost(0, "no worker could be started for 300 s", counts=False)
    assert listener.ended == []


def test_the_loss_of_a_slot_does_not_bring_back_a_trial_that_was_to_leave(folder: StudyFolder, listener: Listener):
    controller = open_controller(folder, listener, racing=StopAll())
    controller.next_task()
    assert controller.hear(epoch(0, 0, 1, 0.5)) == "rank 9 of 9"
    controller.lost(0, "its process died")
    assert [record.state for record in listener.ended] == ["stopped"]
    assert controller.next_task().number == 1


def test_a_paused_trial_goes_on_when_a_late_gain_lets_the_search_go_on(folder: StudyFolder, listener: Listener):
    controller = open_controller(folder, listener, trials=9, limits=Limits(Budget(patience=2), Ledger()))
    play(controller, 0.5)
    paused, late = controller.next_task(), controller.next_task()
    play(controller, 0.6)
    play(controller, 0.6)
    controller.hear(epoch(late.number, 0, 2, 0.3, ends_fold=False))
    assert controller.hear(epoch(paused.number, 0, 2, 0.4, ends_fold=True)) is not None
    assert not controller.left(paused.number)
    assert controller.next_task() is None
    for fold in range(K):
        controller.hear(replace(epoch(late.number, fold, 2, 0.3, ends_fold=True), is_repeat=True))
    controller.end(TrialOutcome(number=late.number, state="finished"))
    assert controller.next_task() == paused


def test_closing_pauses_trials_that_wait_for_a_slot_too(folder: StudyFolder, listener: Listener):
    notebook = Notebook()
    controller = open_controller(folder, listener, suggester=notebook, trials=2, has_exclusive_slots=True)
    controller.next_task()
    controller.next_task()
    controller.end(TrialOutcome(number=0, state="failed", fault="memory", reason="out of memory with batches of 64"))
    controller.lost(1, "its node is gone")
    controller.close("Ctrl-C")
    assert [stored(folder, number)["state"] for number in (0, 1)] == ["paused", "paused"]
    assert [(record.number, record.state) for record in notebook.told] == [(0, "paused"), (1, "paused")]


def test_a_trial_that_was_told_to_stop_is_stopped_even_if_nobody_says_that_it_has_left(
    folder: StudyFolder, listener: Listener
):
    controller = open_controller(folder, listener, racing=StopAll())
    controller.next_task()
    controller.hear(epoch(0, 0, 1, 0.7))
    controller.close("Ctrl-C")
    assert (stored(folder, 0)["state"], stored(folder, 0)["reason"]) == ("stopped", "rank 9 of 9")


def fail(controller: TrialController, reason: str) -> None:
    handed_out = controller.next_task()
    assert handed_out is not None
    controller.end(TrialOutcome(number=handed_out.number, state="failed", reason=reason))


def test_a_search_whose_first_trials_all_fail_stops_with_the_commonest_reason_and_pauses_the_others(
    folder: StudyFolder, listener: Listener
):
    controller = open_controller(folder, listener, trials=60)
    waiting = controller.next_task()
    for number in range(FIRST_FAILURES):
        assert controller.must_leave() == ""
        fail(controller, "out of luck" if number == 2 else "/images does not exist")
    assert controller.next_task() is None
    assert controller.must_leave() == "The first 5 trials failed, 4 of them like this: /images does not exist"
    controller.close("")
    assert controller.ended_by() == ""
    assert stored(folder, waiting.number)["state"] == "paused"

    later = open_controller(
        folder, listener, suggester=Notebook(asked=6), trials=60
    )  # the next run begins to count anew
    assert later.next_task() is not None, "the next run begins to count anew"


def test_the_first_five_are_those_of_the_study_and_not_of_a_run(folder: StudyFolder, listener: Listener):
    play(open_controller(folder, listener, trials=60), 0.5)
    resumed = open_controller(folder, listener, suggester=Notebook(asked=1), trials=60)
    for _ in range(FIRST_FAILURES):
        fail(resumed, "/images does not exist")
    assert resumed.must_leave() == ""


def test_later_a_search_stops_after_ten_failures_in_a_row_and_not_after_ten_in_all(
    folder: StudyFolder, listener: Listener
):
    controller = open_controller(folder, listener, trials=60)
    for _ in range(2):
        for _ in range(FIRST_FAILURES - 1):
            fail(controller, "the loss is not finite")
        play(controller, 0.5)
    for _ in range(FAILURES_IN_A_ROW):
        assert controller.must_leave() == ""
        fail(controller, "the loss is not finite")
    assert controller.must_leave().startswith("The last 10 trials failed, 10 of them like this: the loss")


def test_the_traceback_of_a_trial_that_failed_lies_in_its_folder(folder: StudyFolder, listener: Listener):
    controller = open_controller(folder, listener)
    for traceback in ("Traceback (most recent call last):\n  ...", ""):
        handed_out = controller.next_task()
        outcome = TrialOutcome(number=handed_out.number, state="failed", reason="ValueError: no", traceback=traceback)
        controller.end(outcome)
    assert folder.trial(0).error.read_text() == "Traceback (most recent call last):\n  ..."
    assert not folder.trial(1).error.exists()
