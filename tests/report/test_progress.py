"""What people see while a study runs, with a clock of our own."""

import io
import math

import pytest
from rich.console import Console

from consilia.config.records import ALL_FOLDS, EpochReport, FoldResult, RefitProgress, TrialRecord, TrialTask
from consilia.config.space import Hyperparameters
from consilia.report.progress import PrepareProgress, StudyProgress


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def configuration(architecture: str = "resnet18") -> Hyperparameters:
    return Hyperparameters(architecture=architecture, lr=3e-4)


def epoch(number: int, *, fold: int = 0, epoch: int = 1, score: float = 0.5) -> EpochReport:
    return EpochReport(number=number, fold=fold, epoch=epoch, score=score, train_loss=0.7, seconds=2.0, images=100)


def record(number: int, state: str, objective: float | None = None, reason: str = "", n_folds: int = 0) -> TrialRecord:
    folds = tuple(
        FoldResult(fold=fold, epochs=4, metrics={"log_loss": 0.5}, n_images=10, seconds=8.0) for fold in range(n_folds)
    )
    return TrialRecord(
        number=number,
        state=state,
        hyperparameters=configuration(),
        folds=folds,
        objective=objective,
        reason=reason,
        seconds=24.0,
    )


def on_terminal(clock: Clock, *, metric: str = "log_loss") -> tuple[StudyProgress, io.StringIO]:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=200, color_system=None, markup=False)
    return StudyProgress(console, metric=metric, epochs=4, n_folds=3, clock=clock), output


def in_a_file(clock: Clock) -> tuple[StudyProgress, io.StringIO]:
    output = io.StringIO()
    console = Console(file=output, width=200, markup=False)
    return StudyProgress(console, metric="log_loss", epochs=4, n_folds=3, clock=clock), output


def last_frame(output: io.StringIO) -> str:
    """The lines that were written since the last time the summary was drawn."""
    text = output.getvalue()
    return text[text.rindex(" trials  ·") - 10 :]


def play(view: StudyProgress, clock: Clock) -> None:
    """Four trials on two slots: one finishes, one is stopped, one fails, one still trains."""
    view.search_started(n_trials=8, n_slots=2, records=())
    for number in (0, 1):
        view.trial_started(TrialTask(number=number, hyperparameters=configuration()))
        view.epoch_ended(epoch(number))
    clock.seconds += 60
    view.trial_ended(record(0, "finished", 0.4321, n_folds=3))
    view.trial_ended(record(1, "stopped", 0.9, "rank 5 of 6 at epoch 2", n_folds=0))
    for number in (2, 3):
        view.trial_started(TrialTask(number=number, hyperparameters=configuration("densenet121")))
    view.epoch_ended(epoch(2, fold=1, epoch=3, score=0.7654))
    clock.seconds += 60
    view.trial_ended(record(3, "failed", reason="the loss of fold 1/3 is nan in epoch 2 at lr 3e-4"))


def test_the_live_table_shows_running_trials_best_score_speed_and_time_left(clock):
    view, output = on_terminal(clock)
    with view:
        play(view, clock)
        frame = last_frame(output)
    assert "3/8 trials" in frame
    assert "1 finished, 1 stopped, 1 failed" in frame
    assert "1 running in 2 slots" in frame
    assert "best log_loss 0.4321 (trial 0)" in frame
    assert "2 epochs/min" in frame  # three epochs in two minutes
    assert "about 3 min left" in frame  # 40 s a trial, five trials to go
    (row,) = [line for line in frame.splitlines() if "densenet121" in line]
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["2", "densenet121", "3.0e-04", "2/3", "3/4", "0.7654"]


def test_without_a_terminal_a_single_trial_says_how_far_it_is_every_ten_seconds(clock):
    view, output = in_a_file(clock)
    view.search_started(n_trials=1, n_slots=1, records=())
    view.trial_started(TrialTask(number=0, hyperparameters=configuration()))
    for fold in range(2):
        for at in range(1, 5):
            clock.seconds += 4
            view.epoch_ended(epoch(0, fold=fold, epoch=at, score=0.25))
    assert output.getvalue().splitlines() == [
        "fold 1/3, epoch 3/4, log_loss 0.2500, about 36 s left",  # nine epochs of 4 s
        "fold 2/3, epoch 2/4, log_loss 0.2500, about 24 s left",
    ]


def test_without_a_terminal_several_trials_say_nothing_until_one_has_ended(clock):
    view, output = in_a_file(clock)
    view.search_started(n_trials=2, n_slots=1, records=())
    view.trial_started(TrialTask(number=0, hyperparameters=configuration()))
    clock.seconds += 60
    view.epoch_ended(epoch(0))
    assert output.getvalue() == ""


def test_an_epoch_that_was_not_scored_shows_the_last_score_of_its_fold(clock):
    view, output = on_terminal(clock)
    shown = []
    with view:
        view.search_started(n_trials=8, n_slots=2, records=())
        view.trial_started(TrialTask(number=2, hyperparameters=configuration("densenet121")))
        for fold, at, score in ((0, 1, math.nan), (0, 2, 0.7), (0, 3, math.nan), (1, 1, math.nan)):
            view.epoch_ended(epoch(2, fold=fold, epoch=at, score=score))
            (row,) = [line for line in last_frame(output).splitlines() if "densenet121" in line]
            shown.append(row.split("│")[-2].strip())
    assert shown == ["", "0.7000", "0.7000", ""]


def test_a_trial_without_an_epoch_is_starting(clock):
    view, output = on_terminal(clock)
    with view:
        view.search_started(n_trials=2, n_slots=1, records=())
        view.trial_started(TrialTask(number=0, hyperparameters=configuration()))
        assert "starting" in last_frame(output)
        assert "no score yet" in last_frame(output)


def refits(number: int = 5) -> RefitProgress:
    running = (
        (TrialTask(number=3, hyperparameters=configuration()), None),
        (
            TrialTask(number=number, hyperparameters=configuration("densenet121")),
            epoch(number, fold=ALL_FOLDS, epoch=2),
        ),
    )
    return RefitProgress(n_finished=1, n_all=3, n_slots=2, running=running)


def test_refits_stand_in_a_table_of_their_own_with_epoch_and_training_loss_and_no_score(clock):
    view, output = on_terminal(clock)
    with view:
        view.refitting(refits())
        text = output.getvalue()
    assert "1/3 refits finished  ·  2 running in 2 slots" in text
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "e-04" in line]
    assert cells == [
        ["3", "resnet18", "3.0e-04", "", "starting"],
        ["5", "densenet121", "3.0e-04", "2/4", "0.7000"],
    ]
    assert "nan" not in text


def test_without_a_terminal_refits_say_nothing_but_their_notes(clock):
    view, output = in_a_file(clock)
    with view:
        view.refitting(refits())
    assert output.getvalue() == ""


def test_without_a_terminal_there_is_one_line_for_each_ended_trial(clock):
    view, output = in_a_file(clock)
    with view:
        play(view, clock)
    lines = output.getvalue().splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["trial", "0", "finished"],
        ["trial", "1", "stopped"],
        ["trial", "3", "failed"],
    ]
    assert "log_loss 0.4321  3/3 folds  24 s" in lines[0]
    assert lines[1].endswith("rank 5 of 6 at epoch 2")
    assert lines[2].endswith("the loss of fold 1/3 is nan in epoch 2 at lr 3e-4")


def test_the_best_is_the_lowest_loss_and_the_highest_auc(clock):
    for metric, best in (("log_loss", 0), ("macro_auc", 1)):
        view, output = on_terminal(clock, metric=metric)
        with view:
            stored = (record(0, "finished", 0.2), record(1, "finished", 0.9), record(2, "stopped", 0.1))
            view.search_started(n_trials=9, n_slots=1, records=stored)
            assert f"(trial {best})" in last_frame(output)


def test_stored_trials_count_as_done_but_not_for_the_time_left(clock):
    view, output = on_terminal(clock)
    stored = tuple(record(number, "finished", 0.5) for number in range(6))
    with view:
        view.search_started(n_trials=8, n_slots=1, records=(*stored, record(6, "running")))
        assert "6 trials are stored already and are not repeated." in output.getvalue()
        assert "6/8 trials" in last_frame(output)
        assert "left" not in last_frame(output)
        clock.seconds += 30
        view.trial_ended(record(6, "finished", 0.4))
        assert "about 30 s left" in last_frame(output)


def test_the_dashboard_is_named_with_the_file_of_its_token(clock):
    view, output = in_a_file(clock)
    view.connected(dashboard="http://127.0.0.1:8265", token_file="/tmp/token")
    assert output.getvalue() == "Ray dashboard  http://127.0.0.1:8265 (it asks for the token in /tmp/token)\n"


def test_a_cluster_without_a_dashboard_is_no_line(clock):
    view, output = in_a_file(clock)
    view.connected(dashboard="", token_file="")
    assert output.getvalue() == ""


def test_a_note_is_one_line_as_it_is_on_a_terminal_and_in_a_file(clock):
    text = "trial 7 of [b]old[/b]: lr 0.03 clipped to 0.02, " + "and much more, " * 20
    for view, output in (on_terminal(clock), in_a_file(clock)):
        view.noted(text)
        assert output.getvalue() == text + "\n"


def preparing(clock: Clock, *, is_terminal: bool) -> tuple[PrepareProgress, io.StringIO]:
    output = io.StringIO()
    console = Console(file=output, force_terminal=is_terminal, width=120, color_system=None)
    return PrepareProgress(console, clock=clock), output


def test_preparing_shows_a_bar_on_a_terminal_and_nothing_in_a_file(clock):
    for is_terminal in (True, False):
        progress, output = preparing(clock, is_terminal=is_terminal)
        for done in range(4):
            progress(done, 3)
        progress.close()
        assert ("preparing images" in output.getvalue()) == is_terminal
        assert is_terminal or output.getvalue() == ""


def test_preparing_on_a_terminal_shows_rate_and_time_left(clock):
    progress, output = preparing(clock, is_terminal=True)
    progress(0, 3000)
    clock.seconds += 4
    progress(1000, 3000)
    progress.close()
    assert "1000/3000 250 images/s, about 8 s left" in output.getvalue()


def test_preparing_in_a_file_is_a_line_every_ten_seconds_and_one_at_the_end(clock):
    progress, output = preparing(clock, is_terminal=False)
    for second in range(26):
        progress(100 * second, 2500)
        clock.seconds += 1
    assert output.getvalue().splitlines() == [
        "prepared 1,000 of 2,500 images, 100 images/s, about 15 s left",
        "prepared 2,000 of 2,500 images, 100 images/s, about 5 s left",
        "prepared 2,500 images in 25 s, 100 images/s",
    ]


def test_images_of_an_earlier_run_do_not_count_for_the_rate(clock):
    progress, output = preparing(clock, is_terminal=False)
    progress(90_000, 100_000)
    clock.seconds += 10
    progress(90_050, 100_000)
    lines = output.getvalue().splitlines()
    assert lines[0] == "90,000 of 100,000 images were prepared before and are not decoded again."
    assert lines[1] == "prepared 90,050 of 100,000 images, 5.0 images/s, about 33 min left"


def test_the_time_left_follows_the_last_minute(clock):
    progress, output = preparing(clock, is_terminal=False)
    for minute in range(11):  # ten times slower in the second half: larger images, a busier disk
        progress(min(6000 * minute, 30_000 + 600 * (minute - 5)), 100_000)
        clock.seconds += 60
    assert output.getvalue().splitlines()[-1] == "prepared 33,000 of 100,000 images, 10 images/s, about 1 h 52 min left"


def test_a_view_can_be_left_before_anything_has_started(clock):
    for view, output in (on_terminal(clock), in_a_file(clock)):
        with view:
            pass
        assert "trials" not in output.getvalue()
