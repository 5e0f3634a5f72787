import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from join_trials import SAME, join_trials
from shared.trials_file import RecordedTrials, keep_trials, read_trials, write_trials

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A MedMNIST-like archive whose official test split is white."""
    generator = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", 100), ("val", 20), ("test", 30)):
        labels = np.arange(n) % 2
        images = generator.integers(0, 150, (n, 28, 28)) + 100 * labels[:, None, None]
        arrays[f"{split}_images"] = (np.full_like(images, 255) if split == "test" else images).astype(np.uint8)
        arrays[f"{split}_labels"] = labels[:, None].astype(np.uint8)
    path = tmp_path / "pneumoniamnist_28.npz"
    np.savez(path, **arrays)
    return path


def record(archive: Path, work: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the recorder where ray cannot be imported."""
    blocked = work.parent / "blocked"
    (blocked / "ray").mkdir(parents=True, exist_ok=True)
    (blocked / "ray" / "__init__.py").write_text("raise ImportError('no ray here')")
    command = [sys.executable, str(BENCHMARKS / "record_trials.py"), str(archive), "--work", str(work)]
    path = os.pathsep.join(filter(None, [str(blocked), os.environ.get("PYTHONPATH", "")]))
    return subprocess.run(
        [*command, "--epochs=1", "--processes=1", *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.slow("trains five networks in processes of their own")
def test_a_recording_holds_the_logits_of_every_fold_and_goes_on_where_it_stopped_without_ray(
    archive: Path, tmp_path: Path
):
    work, out = tmp_path / "work", tmp_path / "trials.parquet"
    done = record(archive, work, "--trials=1", f"--out={out}", "--minutes=0")
    assert done.returncode == 0, done.stderr
    assert not out.exists()
    done = record(archive, work, "--trials=1", f"--out={out}")
    assert done.returncode == 0, done.stderr
    recorded = read_trials(out)
    assert (recorded.oof.shape, recorded.held_out.shape) == ((1, 96, 2), (1, 5, 24, 2))  # the test split is gone
    assert recorded.trials[0]["architecture"] == "test_resnet"
    assert not set(recorded.groups) & set(recorded.held_out_groups)
    for fold in range(5):
        folder = work / "trials" / "0" / f"fold-{fold}"
        assert not (folder / "weights.safetensors").exists()
        logits_of = {"oof": recorded.oof[0, recorded.folds == fold], "held_out": recorded.held_out[0, fold]}
        for name, logits in logits_of.items():
            stored = pd.read_parquet(folder / f"{name}.parquet")
            np.testing.assert_array_equal(logits[:, 1] - logits[:, 0], stored["logit_1"] - stored["logit_0"])
    other = record(archive, work, "--trials=1", "--space=resnet", f"--out={out}")
    assert other.returncode == 1
    assert "Choose another --work" in other.stderr


def test_three_classes_come_back_as_they_were_written_up_to_a_constant(tmp_path: Path):
    generator = np.random.default_rng(0)
    recorded = RecordedTrials(
        trials=({"number": 0, "lr": 0.1}, {"number": 4, "lr": 0.2}),
        notes={"epochs": 6},
        labels=np.arange(12) % 3,
        groups=np.arange(12),
        folds=np.arange(12) // 3,
        oof=generator.normal(size=(2, 12, 3)).astype(np.float32),
        held_out_labels=np.arange(5) % 3,
        held_out_groups=np.arange(12, 17),
        held_out=generator.normal(size=(2, 4, 5, 3)).astype(np.float32),
    )
    path = tmp_path / "trials.parquet"
    write_trials(path, recorded)
    back = read_trials(path)
    assert (back.trials, back.notes) == (recorded.trials, recorded.notes)
    for name in ("labels", "groups", "folds", "held_out_labels", "held_out_groups"):
        np.testing.assert_array_equal(getattr(back, name), getattr(recorded, name))
    for name in ("oof", "held_out"):
        written = getattr(recorded, name)
        np.testing.assert_array_equal(getattr(back, name), written - written[..., :1])
    assert json.dumps(keep_trials(back, [1]).trials) == '[{"number": 4, "lr": 0.2}]'


def test_joined_recordings_hold_each_configuration_once_and_refuse_other_folds():
    generator = np.random.default_rng(0)
    first = RecordedTrials(
        trials=({"number": 0, "lr": 0.1}, {"number": 1, "lr": 0.2}),
        notes={**dict.fromkeys(SAME, "equal"), "device": "cpu"},
        labels=np.arange(6) % 2,
        groups=np.arange(6),
        folds=np.arange(6) // 3,
        oof=generator.normal(size=(2, 6, 2)).astype(np.float32),
        held_out_labels=np.arange(3) % 2,
        held_out_groups=np.arange(6, 9),
        held_out=generator.normal(size=(2, 2, 3, 2)).astype(np.float32),
    )
    second = replace(
        first,
        trials=({"number": 0, "lr": 0.2}, {"number": 1, "lr": 0.3}),
        notes={**first.notes, "device": "cuda"},
        oof=-first.oof,
    )
    joined = join_trials([first, second])
    assert [(each["number"], each["lr"], each["device"]) for each in joined.trials] == [
        (0, 0.1, "cpu"),
        (1, 0.2, "cpu"),
        (2, 0.3, "cuda"),
    ]
    np.testing.assert_array_equal(joined.oof, [*first.oof, second.oof[1]])
    assert joined.notes["device"] == "cpu, cuda"
    assert join_trials([joined, second]).trials == joined.trials
    with pytest.raises(SystemExit, match="folds_digest"):
        join_trials([first, replace(second, notes={**second.notes, "folds_digest": "other"})])
