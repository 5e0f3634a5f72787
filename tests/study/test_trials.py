"""A study's trials are read from its files while others write them."""

import fcntl
import math
import os
import shutil
import threading
from pathlib import Path

import pytest

from consilia.config.record_files import write_fold_result, write_trial
from consilia.config.records import FoldResult, TrialRecord, TrialState
from consilia.config.space import Hyperparameters
from consilia.config.study import StudyPlan
from consilia.config.study_folder import StudyFolder
from consilia.errors import StudyError
from consilia.report.trials import Place
from consilia.study.folder import claim_folder, hold_study, is_held
from consilia.study.plan import read_plan
from consilia.study.trials import TrialReader
from consilia.train.tables import write_history


@pytest.fixture
def plan(study_file: Path) -> StudyPlan:
    return read_plan(study_file, settings=["search.trials=6", "folds.k=3", "training.epochs=4"])


@pytest.fixture
def folder(plan: StudyPlan, tmp_path: Path) -> StudyFolder:
    with claim_folder(plan, tmp_path) as folder:
        return folder


def write(folder: StudyFolder, number: int, state: TrialState, objective: float | None = None) -> None:
    record = TrialRecord(
        number=number, state=state, hyperparameters=Hyperparameters(architecture="test_resnet"), objective=objective
    )
    write_trial(folder.trial(number).record, record)


def write_result(folder: StudyFolder, number: int, fold: int, score: float) -> None:
    result = FoldResult(fold=fold, epochs=4, metrics={"log_loss": score}, n_images=5, seconds=1.0)
    write_fold_result(folder.trial(number).fold(fold).result, result)


def write_epochs(folder: StudyFolder, number: int, fold: int, *scores: float) -> Path:
    rows = [
        {"epoch": at, "train_loss": 1.0, "log_loss": score, "lr": 0.1, "seconds": 1.0, "images": 20}
        for at, score in enumerate(scores, start=1)
    ]
    write_history(folder.trial(number).fold(fold).history, rows)
    return folder.trial(number).fold(fold).history


def test_a_study_without_trials_has_an_empty_board(plan, folder):
    board = TrialReader(plan, folder)()
    assert (board.rows, board.n_trials, board.n_folds, board.epochs) == ((), 6, 3, 4)


def test_the_best_come_first_and_the_others_by_number(plan, folder):
    trials = (("failed", None), ("finished", 0.4), ("stopped", 0.1), ("finished", 0.2), ("running", None))
    for number, (state, objective) in enumerate(trials):
        write(folder, number, state, objective)
    board = TrialReader(plan, folder)()
    assert [row.record.number for row in board.rows] == [3, 1, 0, 2, 4]
    assert board.n_ended == 4


def test_a_running_trial_shows_its_finished_folds_and_the_last_epoch_of_the_next(plan, folder):
    write(folder, 0, "running")
    read = TrialReader(plan, folder)
    with hold_study(folder):
        assert read().rows[0].place == Place(fold=0)
        history = write_epochs(folder, 0, 0, 0.9, 0.7)
        os.utime(history, (1000, 1000))
        assert read().rows[0].place == Place(fold=0, epoch=2, score=0.7, updated=1000)
        write_result(folder, 0, 0, 0.6)
        write_epochs(folder, 0, 1, 0.8)
        (row,) = read().rows
    assert row.state == "running"
    assert [fold.metrics["log_loss"] for fold in row.record.folds] == [0.6]
    assert (row.place.fold, row.place.epoch, row.place.score) == (1, 1, 0.8)


def test_the_score_shown_is_that_of_the_last_epoch_that_was_scored(plan, folder):
    write(folder, 0, "running")
    read = TrialReader(plan, folder)
    for scores, shown in (((math.nan,), None), ((math.nan, 0.9, math.nan), 0.9)):
        write_epochs(folder, 0, 0, *scores)
        (row,) = read().rows
        assert (row.place.epoch, row.place.score) == (len(scores), shown)


def test_a_trial_whose_folds_are_all_there_is_about_to_end(plan, folder):
    write(folder, 0, "running")
    for fold in range(3):
        write_result(folder, 0, fold, 0.5)
    (row,) = TrialReader(plan, folder)().rows
    assert (row.place, row.record.n_folds) == (None, 3)


def test_running_means_that_a_process_holds_the_study_and_else_the_trial_is_interrupted(plan, folder):
    for number, state in enumerate(("running", "paused", "stopped")):
        write(folder, number, state)
    read = TrialReader(plan, folder)
    with hold_study(folder):
        held = read()
    left = read()
    assert [row.state for row in held.rows] == ["running", "paused", "stopped"]
    assert [row.state for row in left.rows] == ["interrupted", "paused", "stopped"]
    assert (held.is_held, held.is_over, left.is_held, left.is_over) == (True, False, False, True)


def test_nothing_is_left_to_wait_for_once_all_trials_have_ended(plan, folder):
    for number in range(6):
        write(folder, number, "failed" if number else "finished", None if number else 0.5)
    with hold_study(folder):  # it still builds the ensemble
        assert TrialReader(plan, folder)().is_over


def test_a_study_without_a_folder_is_held_by_nobody(folder):
    assert not is_held(folder)
    assert not is_held(StudyFolder(folder.root / "no study yet"))


def test_whoever_only_asks_whether_a_study_is_held_keeps_nobody_out(folder):
    asking = os.open(folder.root / ".lock", os.O_RDONLY)
    fcntl.flock(asking, fcntl.LOCK_SH)  # as `is_held` does for an instant
    waited = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        fcntl.flock(asking, fcntl.LOCK_UN)

    with hold_study(folder, wait=wait):
        assert is_held(folder)
    os.close(asking)
    assert len(waited) == 1


def test_what_was_replaced_is_read_again_and_what_was_not_is_not(plan, folder):
    write(folder, 0, "finished", 0.5)
    write(folder, 1, "stopped", 0.9)
    read = TrialReader(plan, folder)
    unchanged, stopped = (row.record for row in read().rows)
    write(folder, 1, "finished", 0.4)
    replaced, same = (row.record for row in read().rows)
    assert same is unchanged
    assert (replaced.number, replaced.state, stopped.state) == (1, "finished", "stopped")


def test_files_that_appear_are_replaced_or_vanish_while_they_are_read_do_no_harm(plan, folder):
    """One thread plays the search, as fast as it can, and this one reads."""
    n_rounds = 20
    failed = []

    def play() -> None:
        try:
            for number in range(n_rounds):
                write(folder, number % 7, "running")
                for at in range(1, 5):
                    write_epochs(folder, number % 7, 0, *[1 / at] * at)
                write_result(folder, number % 7, 0, 0.25)
                write(folder, number % 7, "stopped", 0.25)
                shutil.rmtree(folder.trial((number - 3) % 7).root, ignore_errors=True)
        except Exception as error:
            failed.append(error)

    playing = threading.Thread(target=play)
    read = TrialReader(plan, folder)
    playing.start()
    n_seen = 0
    while playing.is_alive():
        for row in read().rows:
            n_seen += 1
            if row.place is not None and row.place.epoch:
                assert row.place.score == 1 / row.place.epoch  # never the epoch of one file and the score of another
    playing.join()
    assert failed == []
    assert n_seen > 0


def test_a_damaged_history_hides_the_place_and_a_damaged_record_is_named(plan, folder):
    write(folder, 0, "running")
    write_epochs(folder, 0, 0, 0.5).write_bytes(b"PAR1")
    assert TrialReader(plan, folder)().rows[0].place == Place(fold=0)
    folder.trial(0).record.write_text('{"number": 0')
    with pytest.raises(StudyError, match=r"trials/0/trial\.json must be readable JSON"):
        TrialReader(plan, folder)()
