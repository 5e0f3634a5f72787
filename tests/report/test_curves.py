"""TensorBoard's own reader finds every epoch that a search reported, once."""

import logging
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG, parse_session_start_info_plugin_data

from consilia.config.records import EpochReport, FoldResult, TrialRecord, TrialTask
from consilia.config.space import Hyperparameters
from consilia.config.study_folder import StudyFolder
from consilia.report.curves import Curves
from consilia.train.tables import read_history, write_history
from consilia.tune.contract import Audience, SearchObserver

Curve = list[tuple[int, float]]


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "study")


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def curves(folder: StudyFolder, notes: list[str]) -> Curves:
    return Curves(folder, metric="log_loss", noted=notes.append)


def task(number: int, architecture: str = "resnet18", **values) -> TrialTask:
    return TrialTask(number=number, hyperparameters=Hyperparameters(architecture=architecture, **values))


def score(number: int, fold: int, at: int) -> float:
    return 1 / (1 + number + fold / 7 + at / 3)


def epoch(number: int, fold: int, at: int, *, is_repeat: bool = False, is_last: bool = False) -> EpochReport:
    value = score(number, fold, at)
    result = FoldResult(fold=fold, epochs=at, metrics={"log_loss": value}, n_images=5, seconds=1.0)
    return EpochReport(
        number=number,
        fold=fold,
        epoch=at,
        score=value,
        train_loss=2 * value,
        seconds=1.0,
        images=20,
        is_repeat=is_repeat,
        fold_result=result if is_last else None,
    )


def row(number: int, fold: int, at: int) -> dict[str, float]:
    value = score(number, fold, at)
    return {"epoch": at, "train_loss": 2 * value, "log_loss": value, "lr": 0.1, "seconds": 1.0, "images": 20}


def expected(number: int, fold: int, epochs: int) -> Curve:
    return [(at, float(np.float32(score(number, fold, at)))) for at in range(1, epochs + 1)]


def read(run: Path, tag: str = "log_loss") -> Curve:
    reader = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    return [(each.step, each.value) for each in reader.Scalars(tag)]


def test_every_value_of_every_fold_is_on_its_curve(folder, curves, notes):
    names = {0: "resnet18", 1: "densenet121", 2: "own/net one"}
    for number, name in names.items():
        curves.trial_started(task(number, name))
    for fold in range(3):
        for at in range(1, 6):
            for number in names:
                curves.epoch_ended(epoch(number, fold, at))
    runs = ("trial-0-resnet18", "trial-1-densenet121", "trial-2-own_net_one")
    assert sorted(path.name for path in folder.tensorboard.iterdir()) == sorted(runs)
    for number, run in enumerate(runs):
        for fold in range(3):
            place = folder.tensorboard / run / f"fold-{fold}"
            assert read(place) == expected(number, fold, 5)
            assert read(place, "train_loss") == [
                (at, pytest.approx(2 * value)) for at, value in expected(number, fold, 5)
            ]
    assert notes == []


def test_epochs_that_were_not_scored_have_a_training_loss_and_no_score(folder, curves, notes):
    unscored = [2, 3, 5]
    rows = [{**row(0, 0, at), **({"log_loss": math.nan} if at in unscored else {})} for at in (1, 2, 3)]
    write_history(folder.trial(0).fold(0).history, rows)  # of an earlier process
    curves.trial_started(task(0))
    for at in (4, 5):
        report = epoch(0, 0, at)
        curves.epoch_ended(replace(report, score=math.nan) if at in unscored else report)
    run = folder.tensorboard / "trial-0-resnet18"
    assert [at for at, _ in read(run / "fold-0")] == [1, 4]
    assert [at for at, _ in read(run / "fold-0", "train_loss")] == [1, 2, 3, 4, 5]
    assert notes == []


def test_a_study_leaves_the_curves_of_its_history(trained):
    for fold in range(trained.plan.folds.k):
        history = read_history(trained.folder.trial(0).fold(fold).history)
        run = trained.folder.tensorboard / "trial-0-test_resnet" / f"fold-{fold}"
        for tag in ("log_loss", "train_loss"):
            assert read(run, tag) == [
                (int(at), float(np.float32(value))) for at, value in zip(history["epoch"], history[tag], strict=True)
            ]


def test_an_epoch_can_be_read_as_soon_as_it_was_reported_and_no_file_stays_open(folder, curves):
    before = len(os.listdir("/proc/self/fd"))
    for number in range(20):
        curves.trial_started(task(number))
        for at in (1, 2):
            curves.epoch_ended(epoch(number, 0, at))
            assert read(folder.tensorboard / f"trial-{number}-resnet18" / "fold-0") == expected(number, 0, at)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_fold_that_is_reported_again_by_a_new_worker_stands_once(folder, curves):
    curves.trial_started(task(3))
    for at, is_repeat in ((1, False), (2, False), (1, True), (2, True), (3, False)):
        curves.epoch_ended(epoch(3, 0, at, is_repeat=is_repeat))
    assert read(folder.tensorboard / "trial-3-resnet18" / "fold-0") == expected(3, 0, 3)


def test_a_resumed_fold_goes_on_without_doubling_its_curve(folder, curves, notes):
    curves.trial_started(task(3))
    for at in (1, 2, 3):
        curves.epoch_ended(epoch(3, 0, at))
    again = Curves(folder, metric="log_loss", noted=notes.append)
    again.trial_started(task(3))
    for at, is_repeat in ((1, True), (2, True), (3, True), (4, True), (5, False)):  # 4 was trained with no driver
        again.epoch_ended(epoch(3, 0, at, is_repeat=is_repeat))
    assert read(folder.tensorboard / "trial-3-resnet18" / "fold-0") == expected(3, 0, 5)


def test_a_reader_that_was_open_during_the_resume_sees_each_epoch_once_too(folder, curves):
    curves.trial_started(task(3))
    for at in (1, 2, 3):
        curves.epoch_ended(epoch(3, 0, at))
    place = folder.tensorboard / "trial-3-resnet18" / "fold-0"
    reader = EventAccumulator(str(place), size_guidance={"scalars": 0}).Reload()
    again = Curves(folder, metric="log_loss", noted=print)
    again.trial_started(task(3))
    for at in (1, 2, 3, 4):
        again.epoch_ended(epoch(3, 0, at, is_repeat=at < 4))
    found = [(each.step, each.value) for each in reader.Reload().Scalars("log_loss")]
    assert found == expected(3, 0, 4)


def test_a_finished_fold_of_which_only_the_end_is_repeated_is_completed_from_its_files(folder, notes):
    history = folder.trial(3).fold(1).history
    write_history(history, [row(3, 1, at) for at in range(1, 5)])
    for _ in range(2):  # a driver that was killed, and the next one
        curves = Curves(folder, metric="log_loss", noted=notes.append)
        curves.trial_started(task(3))
        curves.epoch_ended(epoch(3, 1, 4, is_repeat=True, is_last=True))
        assert read(folder.tensorboard / "trial-3-resnet18" / "fold-1") == expected(3, 1, 4)
    history.write_bytes(b"damaged")
    damaged = Curves(folder, metric="log_loss", noted=notes.append)
    damaged.trial_started(task(3))
    damaged.epoch_ended(epoch(3, 1, 4, is_repeat=True, is_last=True))
    assert read(folder.tensorboard / "trial-3-resnet18" / "fold-1") == expected(3, 1, 4)[3:]
    assert notes == []


def test_an_event_that_a_killed_driver_left_half_written_hides_nothing_that_follows(folder, curves):
    curves.trial_started(task(3))
    for at in (1, 2):
        curves.epoch_ended(epoch(3, 0, at))
    (file,) = (folder.tensorboard / "trial-3-resnet18" / "fold-0").iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    again = Curves(folder, metric="log_loss", noted=print)
    again.trial_started(task(3))
    for at in (1, 2, 3):
        again.epoch_ended(epoch(3, 0, at, is_repeat=at < 3))
    assert read(file.parent) == expected(3, 0, 3)


def test_hyperparameters_and_objective_stand_beside_the_folds(folder, curves):
    started = task(3, lr=0.003, imbalance="focal")
    curves.trial_started(started)
    curves.epoch_ended(epoch(3, 0, 1, is_last=True))
    curves.trial_ended(TrialRecord(number=3, state="finished", hyperparameters=started.hyperparameters, objective=0.25))
    run = folder.tensorboard / "trial-3-resnet18"
    assert [value for _, value in read(run)] == [0.25]
    reader = EventAccumulator(str(run)).Reload()
    content = reader.SummaryMetadata(SESSION_START_INFO_TAG).plugin_data.content
    found = parse_session_start_info_plugin_data(content).hparams
    assert found["lr"].number_value == 0.003
    assert (found["architecture"].string_value, found["imbalance"].string_value) == ("resnet18", "focal")
    assert "image_size" not in found


def test_a_trial_without_a_score_ends_too(folder, curves, notes):
    curves.trial_started(task(3))
    curves.trial_ended(TrialRecord(number=3, state="failed", hyperparameters=task(3).hyperparameters, reason="nan"))
    reader = EventAccumulator(str(folder.tensorboard / "trial-3-resnet18")).Reload()
    assert reader.Tags()["scalars"] == []
    assert notes == []


def test_what_cannot_be_written_is_said_once_and_ends_nothing(folder, curves, notes):
    curves.trial_started(task(0))
    curves.epoch_ended(epoch(0, 0, 1))
    curves.trial_started(task(1))
    blocked = folder.tensorboard / "trial-1-resnet18"
    blocked.write_text("no folder can be made here")
    for at in (1, 2, 3):
        curves.epoch_ended(epoch(1, 0, at))
    (note,) = notes
    assert note.startswith("TensorBoard's curves end here, the search goes on: ")
    assert str(blocked) in note
    blocked.unlink()
    for at in (2, 3):
        curves.epoch_ended(epoch(0, 0, at))
    assert read(folder.tensorboard / "trial-0-resnet18" / "fold-0") == expected(0, 0, 1)
    assert len(notes) == 1


def test_a_full_disk_is_said_once_and_ends_nothing(folder, curves, notes):
    run = folder.tensorboard / "trial-0-resnet18" / "fold-0"
    curves.trial_started(task(0))
    curves.epoch_ended(epoch(0, 0, 1))
    (file,) = run.iterdir()
    file.unlink()
    file.symlink_to("/dev/full")
    for at in (2, 3):
        curves.epoch_ended(epoch(0, 0, at))
    (note,) = notes
    assert "No space left on device" in note


def test_everybody_in_an_audience_hears_everything_and_what_is_noted_is_logged(folder, silent_view, notes, caplog):
    other = type(silent_view)()
    audience: SearchObserver = Audience(silent_view, Curves(folder, metric="log_loss", noted=notes.append), other)
    ended = TrialRecord(number=0, state="finished", hyperparameters=task(0).hyperparameters, objective=0.5)
    audience.search_started(n_trials=1, n_slots=1, records=(ended,))
    audience.trial_started(task(0))
    audience.epoch_ended(epoch(0, 0, 1))
    audience.trial_ended(ended)
    with caplog.at_level(logging.INFO):
        audience.noted("trial 0: its worker was lost")
    assert [record.getMessage() for record in caplog.records] == ["trial 0: its worker was lost"]
    for view in (silent_view, other):
        assert view.notes == ["trial 0: its worker was lost"]
        assert (view.stored, view.epochs, view.ended) == ((ended,), [epoch(0, 0, 1)], [ended])
    assert read(folder.tensorboard / "trial-0-resnet18" / "fold-0") == expected(0, 0, 1)
