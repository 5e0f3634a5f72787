"""When a state is written: seldom where that takes long, and whenever a fold is left."""

from pathlib import Path

import pytest
import torch

from consilia.train import checkpoints
from consilia.train.checkpoints import Checkpoints
from consilia.train.faults import DiskFullError
from consilia.train.network_files import load_checkpoint


class Setting:
    """Epochs of ten seconds, and a disk that takes its time."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch, *, writing: float) -> None:
        self.now, self.weights, self.path = 0.0, torch.zeros(3), path
        self.written: list[int] = []
        self.checkpoints = Checkpoints(path, clock=lambda: self.now)
        save = checkpoints.save_checkpoint

        def slowly(path: Path, state: dict) -> None:
            save(path, state)
            self.written.append(state["epoch"])
            self.now += writing

        monkeypatch.setattr(checkpoints, "save_checkpoint", slowly)

    def end_epochs(self, *epochs: int) -> None:
        for epoch in epochs:
            self.now += 10
            self.weights += 1
            self.checkpoints.keep({"fingerprint": "mine", "epoch": epoch, "weights": self.weights})

    def stored(self) -> dict:
        state = load_checkpoint(self.path, fingerprint="mine")
        assert state is not None
        return state


@pytest.mark.parametrize(
    ("writing", "written"), [(0.0, [1, 2, 3, 4, 5, 6, 7]), (0.3, [1, 3, 5, 7]), (5.0, [1, 4, 7]), (60.0, [1, 4, 7])]
)
def test_a_state_is_written_as_often_as_takes_little_time_and_each_half_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writing: float, written: list[int]
):
    setting = Setting(tmp_path / "checkpoint.pt", monkeypatch, writing=writing)
    setting.end_epochs(*range(1, 8))
    assert setting.written == written


def test_what_is_written_at_the_end_is_the_last_complete_epoch_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    setting = Setting(tmp_path / "checkpoint.pt", monkeypatch, writing=5.0)
    setting.end_epochs(1, 2)
    setting.weights += 10  # steps of an epoch that is left
    setting.checkpoints.write()
    setting.checkpoints.write()
    assert setting.written == [1, 2]
    assert setting.stored()["weights"].tolist() == [2, 2, 2]


def test_an_error_leaves_the_last_complete_epoch_and_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    setting = Setting(tmp_path / "checkpoint.pt", monkeypatch, writing=5.0)

    def train() -> None:
        with setting.checkpoints.written_on_error():
            setting.end_epochs(1, 2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert setting.stored()["epoch"] == 2


def test_a_full_disk_is_said_and_what_is_stored_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    setting = Setting(tmp_path / "checkpoint.pt", monkeypatch, writing=5.0)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def train() -> None:
        with setting.checkpoints.written_on_error():
            setting.end_epochs(1, 2)
            monkeypatch.setattr(checkpoints, "save_checkpoint", full)
            setting.end_epochs(3, 4)

    with pytest.raises(DiskFullError):
        train()
    assert setting.stored()["epoch"] == 1


def test_a_finished_fold_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    setting = Setting(tmp_path / "checkpoint.pt", monkeypatch, writing=5.0)
    setting.end_epochs(1, 2)
    setting.checkpoints.drop()
    setting.checkpoints.write()
    assert not setting.path.exists()
