"""A trial's files between its node and the driver's disk: a new driver may find them there at any moment."""

from pathlib import Path

import pytest

from consilia.config.records import ALL_FOLDS, EpochReport
from consilia.config.study_folder import FoldFolder, TrialFolder
from consilia.train.faults import DiskFullError
from consilia.tune.driver_disk import LocalDisk, Part
from consilia.tune.trial_files import TrialFiles

FULL = OSError(28, "No space left on device")


class Journal(LocalDisk):
    """A disk that remembers in which order files came and went, and may be full."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.is_full = False

    def write(self, path: Path, part: Part, *, is_last: bool, **named: object) -> None:
        if self.is_full:
            raise FULL
        super().write(path, part, is_last=is_last, **named)
        self.events.append(f"{path.parent.name}/{path.name}")

    def remove(self, path: Path) -> None:
        super().remove(path)
        self.events.append(f"remove {path.parent.name}/{path.name}")


class Clock:
    """Stands still until it is told to go on."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Setting:
    """One trial of two folds, here and there."""

    def __init__(self, root: Path, *, folds: tuple[int, ...] = (0, 1)) -> None:
        self.here, self.there = TrialFolder(root / "here" / "3"), TrialFolder(root / "there" / "3")
        self.disk, self.clock, self.heard = Journal(), Clock(), []
        self.files = TrialFiles(self.here, self.there, self.disk, folds=folds, clock=self.clock)
        self.report = self.files.before(self.hear)

    def hear(self, report: EpochReport) -> None:
        self.heard.append((report.fold, report.epoch, list(self.disk.events)))

    def end_epoch(self, fold: int, epoch: int, *, seconds: float = 0.0) -> None:
        """Write what an epoch leaves, and report it."""
        write(self.here.fold(fold), history=f"{epoch}", checkpoint=f"{epoch}")
        self.clock.now += seconds
        self.report(epoch_report(fold, epoch))
        self.files._background.submit(lambda: None).result()  # it comes after what is being sent

    def end_fold(self, fold: int, epoch: int = 3) -> None:
        """Write what a fold leaves, and report it."""
        finish(self.here.fold(fold))
        self.report(epoch_report(fold, epoch))


def epoch_report(fold: int, epoch: int) -> EpochReport:
    return EpochReport(number=3, fold=fold, epoch=epoch, score=1.0, train_loss=1.0, seconds=1.0, images=1)


def write(fold: FoldFolder, **content: str) -> None:
    fold.root.mkdir(parents=True, exist_ok=True)
    for name, text in content.items():
        path: Path = getattr(fold, name)
        path.with_name("new").write_text(text)
        path.with_name("new").replace(path)


def finish(fold: FoldFolder) -> None:
    write(fold, weights="w", oof="o", history="h")
    write(fold, result="r")
    fold.checkpoint.unlink(missing_ok=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


def test_a_finished_fold_is_there_with_its_result_last_before_anybody_hears_of_it(setting: Setting):
    setting.end_fold(0)
    assert setting.disk.events == [f"fold-0/{n}" for n in FINISHED]
    assert setting.heard == [(0, 3, setting.disk.events)]
    assert not setting.here.fold(0).root.exists(), "its files take no more room here"


FINISHED = ("weights.safetensors", "oof.parquet", "history.parquet", "result.json")


def test_a_refit_is_sent_as_a_fold_is(tmp_path: Path):
    setting = Setting(tmp_path, folds=(ALL_FOLDS,))
    finish(setting.here.refit)
    setting.report(epoch_report(ALL_FOLDS, 3))
    assert setting.disk.events == [f"refit/{n}" for n in FINISHED]


@pytest.mark.parametrize(("sending", "epochs"), [(0.0, [1, 2, 3, 4, 5, 6]), (0.2, [1, 3, 5, 6]), (5.0, [1, 4, 6])])
def test_an_open_fold_is_sent_as_often_as_takes_little_time_and_each_half_minute(
    setting: Setting, sending: float, epochs: list[int]
):
    """Epochs of 10 seconds; a checkpoint and its history take `sending` each on their way."""
    sent = []

    class Slow(Journal):
        def write(self, path: Path, part: Part, **named: object) -> None:
            super().write(path, part, **named)
            setting.clock.now += sending
            sent.append((path.stem, int(path.read_text())))

    setting.files._disk = Slow()
    for epoch in range(1, 7):
        setting.end_epoch(0, epoch, seconds=10)
    setting.files.leave()
    assert sent == [(name, epoch) for epoch in epochs for name in ("history", "checkpoint")]


def test_what_is_left_can_be_taken_up_elsewhere(setting: Setting, tmp_path: Path):
    setting.end_fold(0)
    setting.end_epoch(1, 1)
    setting.files.leave()
    assert not setting.here.root.exists()
    other = TrialFiles(elsewhere := TrialFolder(tmp_path / "elsewhere"), setting.there, setting.disk, folds=(0, 1))
    other.fetch(lambda: None)
    assert names(elsewhere.fold(0).root) == ["history.parquet", "result.json"]
    assert names(elsewhere.fold(1).root) == ["checkpoint.pt", "history.parquet"]


def test_what_was_fetched_is_not_sent_back(setting: Setting, tmp_path: Path):
    finish(setting.there.fold(0))
    write(setting.there.fold(1), history="1", checkpoint="1")
    setting.files.fetch(lambda: None)
    setting.report(epoch_report(0, 3))  # as a finished fold is reported again
    setting.report(epoch_report(1, 1))
    setting.files.leave()
    assert setting.disk.events == []
    assert names(setting.there.fold(1).root) == ["checkpoint.pt", "history.parquet"]


def test_a_checkpoint_goes_there_when_it_has_gone_here(setting: Setting):
    write(setting.there.fold(0), history="1", checkpoint="1")
    setting.files.fetch(lambda: None)
    setting.end_fold(0)
    assert names(setting.there.fold(0).root) == sorted(FINISHED)
    assert setting.disk.events[-1] == "remove fold-0/checkpoint.pt"


def test_a_failed_trial_leaves_no_checkpoint_there(setting: Setting):
    setting.end_epoch(0, 1)
    setting.here.fold(0).checkpoint.unlink()  # as training does
    setting.files.leave()
    assert names(setting.there.fold(0).root) == ["history.parquet"]


def test_of_a_trial_that_is_over_only_what_it_has_told_is_kept_there(setting: Setting):
    write(setting.there.fold(1), history="1", checkpoint="1")
    setting.files.fetch(lambda: None)
    setting.end_fold(0)
    write(setting.here.fold(1), history="2", checkpoint="2")
    setting.files.leave(is_over=True)
    assert names(setting.there.fold(0).root) == sorted(set(FINISHED) - {"weights.safetensors"})
    assert names(setting.there.fold(1).root) == ["history.parquet"]
    assert setting.there.fold(1).history.read_text() == "2"
    assert "fold-1/checkpoint.pt" not in setting.disk.events, "it was not sent"
    assert not setting.here.root.exists()


def test_a_checkpoint_that_vanishes_while_it_is_sent_is_no_error(setting: Setting):
    class Slow(Journal):
        def write(self, path: Path, part: Part, **named: object) -> None:
            super().write(path, part, **named)
            if "history" in path.name and setting.here.fold(0).checkpoint.exists():
                finish(setting.here.fold(0))  # as the training does meanwhile, in another thread

    setting.files._disk = setting.disk = Slow()
    setting.end_epoch(0, 1)
    assert setting.disk.events == ["fold-0/history.parquet"]
    setting.report(epoch_report(0, 3))
    setting.files.leave()
    assert names(setting.there.fold(0).root) == sorted(FINISHED)


def test_a_full_disk_there_stops_the_training_and_says_which_file(setting: Setting):
    setting.disk.is_full = True
    path = setting.there.fold(0).weights
    with pytest.raises(DiskFullError, match=f"the disk is full: {path} could not be written"):
        setting.end_fold(0)
    assert setting.heard == []


def test_a_disk_that_filled_up_while_a_checkpoint_was_sent_is_noticed_with_the_next(setting: Setting):
    setting.disk.is_full = True
    setting.end_epoch(0, 1)
    with pytest.raises(DiskFullError):
        setting.end_epoch(0, 2)
    with pytest.raises(DiskFullError):
        setting.files.leave()
    assert not setting.here.root.exists()
