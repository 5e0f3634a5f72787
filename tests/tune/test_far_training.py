"""Training on a node that does not see the driver's disk computes what training on one that does computes."""

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest

from consilia.config.records import ALL_FOLDS, TrialOutcome, TrialTask
from consilia.config.study import WeightsSource
from consilia.config.study_folder import StudyFolder
from consilia.errors import NodeFault
from consilia.files import write_json
from consilia.train.context import TrainingContext
from consilia.train.networks.weights import fingerprint
from consilia.train.tasks import train_refit, train_trial
from consilia.tune import far_training
from consilia.tune.driver_disk import LocalDisk, Part
from consilia.tune.far_training import FarTraining, WeightsFile, weights_files
from consilia.tune.scratch import SCRATCH
from training_listener import KilledError, Listener


class DriversDisk(LocalDisk):
    """The driver's disk under another path than its own: what it shows as /driver lies elsewhere here."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def sizes(self, paths):
        return {path: size for path in paths for size in super(DriversDisk, self).sizes([self._at(path)]).values()}

    def read(self, path: Path, offset: int) -> Part:
        return super().read(self._at(path), offset)

    def write(self, path: Path, part: Part, **named: object) -> None:
        super().write(self._at(path), part, **named)

    def remove(self, path: Path) -> None:
        super().remove(self._at(path))

    def _at(self, path: Path) -> Path:
        return self._root / path.relative_to("/driver")


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    far_training._scratch.cache_clear()
    yield tmp_path / "tmp"
    far_training._scratch.cache_clear()


@pytest.fixture
def driver(make_context, tmp_path: Path) -> Path:
    """What lies at /driver on the driver's node."""
    root = tmp_path / "driver"
    root.mkdir()
    (root / "store").symlink_to(make_context().store_folder)
    return root


@pytest.fixture
def far(make_context, driver: Path) -> FarTraining:
    context = make_context(store_folder=Path("/driver/store"), trials=Path("/driver/trials"))
    return FarTraining(train=train_trial, context=context, folds=tuple(range(3)), weights=(), disk=DriversDisk(driver))


def run(far: FarTraining, task: TrialTask, listener: Listener | None = None) -> TrialOutcome:
    listener = listener or Listener()
    far.prove(lambda: None)
    return far.run(task, report=listener.report, stopped=listener.stopped)


def files_below(folder: Path) -> dict[str, bytes]:
    """Return every file but the two that hold seconds."""
    timed = ("history.parquet", "result.json")
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: b"" if path.name in timed else path.read_bytes() for name, path in found.items()}


def is_empty(scratch: Path) -> bool:
    """Say whether no trial's file is left on the node."""
    return not [path for path in scratch.glob(f"{SCRATCH}-*/trials-*/**/*") if path.is_file()]


@pytest.mark.parametrize("disturbance", [None, {"polls": 2 * 6 + 1}, {"reports": 5}, {"reports": 3}])
def test_it_leaves_the_same_files_as_training_beside_them_however_it_is_disturbed(
    far: FarTraining, driver: Path, scratch: Path, make_context, make_task, disturbance: dict | None
):
    near = Listener()
    context: TrainingContext = make_context(trials=driver.parent / "near")
    assert train_trial(make_task(), context=context, report=near.report, stopped=near.stopped).state == "finished"
    if disturbance is not None:
        with contextlib.suppress(KilledError):
            assert run(far, make_task(), Listener(**disturbance)).state == "stopped"
        assert is_empty(scratch)
    outcome = run(far, make_task(), last := Listener())
    assert outcome.state == "finished"
    assert len(outcome.folds) == 3
    assert files_below(driver / "trials") == files_below(context.trials)
    assert is_empty(scratch)
    n_repeated = sum(report.is_repeat for report in last.heard)
    assert (n_repeated > 0) == (disturbance is not None)


def test_a_trial_that_is_over_leaves_no_checkpoint_and_no_weights(far: FarTraining, driver: Path, make_task):
    class Withdrawn(Listener):
        def stopped(self) -> str | None:
            return "over" if super().stopped() else None

    assert run(far, make_task(), Withdrawn(polls=30)).state == "stopped"
    assert set(files_below(driver / "trials")) == {
        "0/fold-0/history.parquet",
        "0/fold-0/oof.parquet",
        "0/fold-0/result.json",
        "0/fold-1/history.parquet",
    }


def test_a_refit_leaves_the_same_files_too(far: FarTraining, driver: Path, make_context, make_task):
    context, near = make_context(trials=driver.parent / "near"), Listener()
    train_refit(make_task(), context=context, report=near.report, stopped=near.stopped)
    assert run(replace(far, train=train_refit, folds=(ALL_FOLDS,)), make_task()).state == "finished"
    assert files_below(driver / "trials") == files_below(context.trials)


def test_a_node_that_has_the_images_at_the_same_path_copies_none(far: FarTraining, make_context, scratch: Path):
    far.context = make_context(trials=Path("/driver/trials"))
    far.prove(lambda: None)
    assert not list(scratch.glob(f"{SCRATCH}-*/copy-*"))


def test_other_images_at_the_same_path_are_not_taken_for_the_drivers(far: FarTraining, make_context, scratch: Path):
    """Only a copy under the digest of the study's images will do, and the driver's node has none with it."""
    context = make_context(trials=Path("/driver/trials"))
    far.context = replace(context, folds=replace(context.folds, store_digest="0" * 64))
    far.disk = LocalDisk()
    with pytest.raises(NodeFault, match="are others than the search was started with"):
        far.prove(lambda: None)


def test_images_that_are_gone_from_the_drivers_node_are_named(far: FarTraining, driver: Path):
    (driver / "store").unlink()
    with pytest.raises(NodeFault, match="neither this node nor the driver's has /driver/store/manifest"):
        far.prove(lambda: None)


def test_a_node_whose_disk_is_full_says_so_and_the_trial_pays_nothing(
    far: FarTraining, make_task, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("consilia.train.network_files.write_state", full)
    with pytest.raises(NodeFault, match=f"the disk is full: .*{SCRATCH}.*checkpoint.pt could not be written"):
        run(far, make_task())


def test_a_full_disk_of_the_drivers_pauses_the_trial_for_all(
    far: FarTraining, make_task, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(DriversDisk, "write", full)
    outcome = run(far, make_task())
    assert (outcome.state, outcome.fault) == ("paused", "disk")
    assert "/driver/trials/0/fold-0/history.parquet could not be written" in outcome.reason


def test_pretrained_weights_are_fetched_unless_the_node_has_the_same(
    far: FarTraining, make_context, driver: Path, tmp_path: Path
):
    folder = driver / "weights"
    folder.mkdir()
    (folder / "test_resnet.safetensors").write_bytes(b"weights")
    study = StudyFolder(driver / "study")
    write_json(study.weights, {"test_resnet": fingerprint(folder / "test_resnet.safetensors"), "hub_model": "timm hub"})
    (known,) = weights_files(make_context(weights=WeightsSource(kind="folder", path=folder)), study)
    assert known.is_here()
    there = replace(known, path=Path("/driver/weights/test_resnet.safetensors"))
    far.context = replace(far.context, weights=WeightsSource(kind="folder", path=Path("/driver/weights")))
    far.weights = (there,)
    far.prove(lambda: None)
    found = far._here.weights.path / "test_resnet.safetensors"
    assert found.read_bytes() == b"weights"
    assert not found.is_relative_to(driver)


def test_another_file_at_the_same_path_is_not_taken_for_the_drivers(tmp_path: Path):
    file = tmp_path / "test_resnet.safetensors"
    file.write_bytes(b"weights")
    stat = file.stat()
    known = WeightsFile(file, stat.st_size, stat.st_mtime_ns, fingerprint(file))
    file.write_bytes(b"others!")
    assert not known.is_here()
    file.write_bytes(b"weights")
    assert known.is_here(), "the same content will do"
