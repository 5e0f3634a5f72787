"""The controller of refits, without Ray: who is handed out, what a loss costs, and where the seconds go."""

import logging
import math

import pytest
from search_records import task

from consilia.config.records import ALL_FOLDS, EpochReport, RefitProgress, TaskTaken, TrialOutcome
from consilia.tune.ledger import Ledger, read_ledger, seconds_by_purpose
from consilia.tune.refit_controller import RefitController


class View:
    """A RefitView that remembers."""

    def __init__(self) -> None:
        self.seen: list[RefitProgress] = []
        self.notes: list[str] = []

    def refitting(self, progress: RefitProgress) -> None:
        self.seen.append(progress)

    def noted(self, text: str) -> None:
        self.notes.append(text)


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def view() -> View:
    return View()


def make_controller(view: View, numbers=(3, 7), *, ledger: Ledger | None = None, has_exclusive_slots: bool = False):
    tasks = [task(number) for number in numbers]
    return RefitController(
        tasks, ledger=ledger or Ledger(), view=view, n_slots=1, has_exclusive_slots=has_exclusive_slots
    )


def epoch(number: int, at: int, fold: int = ALL_FOLDS, **values: object) -> EpochReport:
    return EpochReport(
        number=number, fold=fold, epoch=at, score=math.nan, train_loss=0.7, seconds=2.0, images=90, **values
    )


def finished(number: int) -> TrialOutcome:
    return TrialOutcome(number=number, state="finished")


def take(controller: RefitController, number: int) -> None:
    assert controller.next_task().number == number
    controller.taken(TaskTaken(number=number, attempt=1))


def test_each_refit_is_handed_out_once_and_all_that_happens_is_shown(view):
    controller = make_controller(view)
    take(controller, 3)
    take(controller, 7)
    assert controller.next_task() is None
    assert controller.hear(epoch(3, 1)) is None
    controller.end(finished(3))
    controller.end(finished(3))  # said twice
    controller.end(finished(7))
    controller.close()
    assert (controller.finished, controller.failed, controller.n_open, controller.n_running) == ([3, 7], {}, 0, 0)
    assert [(each.n_finished, len(each.running)) for each in view.seen] == [(0, 1), (0, 2), (0, 2), (1, 1), (2, 0)]
    assert view.seen[2].running[0][1].epoch == 1
    assert all("finished" in note for note in view.notes)
    assert len(view.notes) == 2


def test_a_refit_whose_slot_is_lost_goes_on_in_another_and_is_said_to(view):
    controller = make_controller(view)
    take(controller, 3)
    controller.lost(3, "its process died")
    take(controller, 7)
    take(controller, 3)
    assert view.notes == ["refit 3: its slot was lost (its process died); another goes on with it"]


def test_the_fourth_loss_in_a_row_without_a_new_epoch_fails_it_and_one_with_an_epoch_between_does_not(view):
    controller = make_controller(view, (3,))
    for _ in range(3):
        take(controller, 3)
        controller.lost(3, "its process died")
    take(controller, 3)
    controller.hear(epoch(3, 1))
    controller.lost(3, "its process died")  # it had got on: this is the first in a row
    for _ in range(2):
        take(controller, 3)
        controller.lost(3, "its process died")
    assert controller.failed == {}
    take(controller, 3)
    controller.lost(3, "its process died")
    assert "lost 4 times without a new epoch: its process died" in controller.failed[3]
    assert controller.next_task() is None


def test_a_confirmation_is_called_so_and_has_a_purpose_of_its_own_in_the_ledger(view, tmp_path):
    clock = Clock()
    ledger = Ledger(tmp_path / "ledger.parquet", useful="confirmation", clock=clock)
    controller = RefitController([task(3)], ledger=ledger, view=view, n_slots=1, noun="confirmation")
    take(controller, 3)
    controller.lost(3, "its process died")
    take(controller, 3)
    for fold in range(2):
        clock.seconds += 2.0
        assert controller.hear(epoch(3, 1, fold=fold)) is None
    controller.end(finished(3))
    assert [each.noun for each in view.seen] == ["confirmation"] * len(view.seen)
    assert view.notes[0] == "confirmation 3: its slot was lost (its process died); another goes on with it"
    assert view.notes[1].startswith("confirmation   3  finished")
    controller.close()
    assert seconds_by_purpose(read_ledger(tmp_path / "ledger.parquet"))["confirmation"] == 4.0


def test_a_slot_that_was_never_there_does_not_count_against_a_refit(view):
    controller = make_controller(view, (3,))
    for _ in range(30):
        take(controller, 3)
        controller.lost(3, "no worker could be started", counts=False)
    assert controller.failed == {}


def test_out_of_memory_is_tried_once_more_in_an_exclusive_slot_after_all_others(view):
    controller = make_controller(view, has_exclusive_slots=True)
    out_of_memory = TrialOutcome(number=3, state="failed", reason="out of memory", fault="memory")
    take(controller, 3)
    controller.end(out_of_memory)
    assert [controller.next_task(), controller.next_task()] == [task(7), controller._running[3].task]
    assert controller._running[3].task.exclusive
    controller.end(out_of_memory)
    assert controller.failed == {3: "out of memory"}


def test_a_failure_keeps_its_reason_and_lets_the_others_go_on(view):
    controller = make_controller(view)
    take(controller, 3)
    controller.end(TrialOutcome(number=3, state="failed", reason="the loss became nan"))
    take(controller, 7)
    controller.end(finished(7))
    assert (controller.failed, controller.finished, controller.n_open) == ({3: "the loss became nan"}, [7], 0)


def test_a_full_disk_halts_everything(view):
    controller = make_controller(view)
    take(controller, 3)
    controller.end(TrialOutcome(number=3, state="paused", reason="the disk is full", fault="disk"))
    assert controller.must_leave() == "the disk is full"
    assert controller.next_task() is None
    assert controller.n_open == 2


def test_the_ledger_books_epochs_under_refits_and_all_of_what_slots_were_held_for(view, tmp_path):
    clock = Clock()
    path = tmp_path / "ledger.parquet"
    controller = make_controller(view, (3,), ledger=Ledger(path, useful="refit", clock=clock))
    controller.reserve(1)
    take(controller, 3)
    for at in (1, 2):
        clock.seconds += 2.5  # of which an epoch takes 2
        controller.hear(epoch(3, at))
    controller.end(finished(3))
    controller.close()
    table = read_ledger(path)
    found = seconds_by_purpose(table)
    assert found["refit"] == pytest.approx(4.0)
    assert found["overhead"] == pytest.approx(1.0)
    assert found["reserved"] == pytest.approx(5.0)
    assert found["idle"] == pytest.approx(0.0)
    assert set(table.loc[table["purpose"] == "refit", ["trial", "fold"]].itertuples(index=False, name=None)) == {
        (3, ALL_FOLDS)
    }


def test_an_interrupted_refit_is_booked_and_stays_open(view, tmp_path):
    clock = Clock()
    ledger = Ledger(tmp_path / "ledger.parquet", useful="refit", clock=clock)
    controller = make_controller(view, (3,), ledger=ledger)
    controller.reserve(1)
    take(controller, 3)
    clock.seconds += 2.0
    controller.hear(epoch(3, 1))
    clock.seconds += 1.0
    controller.close()
    found = seconds_by_purpose(read_ledger(tmp_path / "ledger.parquet"))
    assert (found["refit"], found["lost"]) == pytest.approx((2.0, 1.0))
    assert controller.n_open == 1


def test_what_is_noted_of_refits_is_logged_too(view: View, caplog: pytest.LogCaptureFixture):
    controller = RefitController([task(0)], ledger=Ledger(), view=view, n_slots=1)
    controller.next_task()
    with caplog.at_level(logging.INFO):
        controller.lost(0, "its process died")
    (note,) = view.notes
    assert "its slot was lost (its process died)" in note
    assert [record.getMessage() for record in caplog.records] == [note]
