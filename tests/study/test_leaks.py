"""A study whose source leaks into its own test split: refused, or run to the end as its card says."""

import csv
from pathlib import Path

import pandas as pd
import pytest

from consilia import search
from consilia.bundle.reading import read_bundle
from consilia.errors import DataError
from consilia.study.plan import read_single_plan

STUDY = """
name: leaky
data:
  name: leaky
  path: "{path}"
  source: {{kind: table, columns: {{patient: patient, split: split}}}}
  size: 32
  on_leak: {on_leak}
folds: {{k: 2}}
spaces: [tiny]
search: {{trials: 2}}
training: {{epochs: 1, batch_size: 16}}
ensemble: best_single
"""


@pytest.fixture
def leaky(phantoms_copy: Path) -> Path:
    """Phantoms with a test split that holds one image of a patient whose others are for training."""
    with (phantoms_copy / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    patients = list(dict.fromkeys(row["patient"] for row in rows))
    sizes = pd.Series([row["patient"] for row in rows]).value_counts()
    torn = next(patient for patient in patients[8:] if sizes[patient] > 1)
    for row in rows:
        row["split"] = "test" if row["patient"] in patients[:8] else "train"
    next(row for row in rows if row["patient"] == torn)["split"] = "test"
    with (phantoms_copy / "metadata.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    return phantoms_copy


def plan_of(folder: Path, on_leak: str):
    file = folder.parent / "leaky.yaml"
    file.write_text(STUDY.format(path=folder, on_leak=on_leak), encoding="utf-8")
    return read_single_plan(file, architecture="test_resnet")


def test_it_is_refused_before_anything_is_trained(leaky, tmp_path, silent_view, one_thread):
    with pytest.raises(DataError, match=r"are of one patient, but the test split parts them \(1 such cases in all\)"):
        search(plan_of(leaky, "error"), studies=tmp_path / "s", stores=tmp_path / "i", view=silent_view)
    assert silent_view.epochs == []


@pytest.mark.parametrize(("on_leak", "says"), [("drop_train", "were left out because"), ("keep", "by on_leak: keep")])
def test_it_runs_as_its_card_says_and_the_bundle_repeats_it(leaky, tmp_path, silent_view, one_thread, on_leak, says):
    plan = plan_of(leaky, on_leak)
    result = search(plan, studies=tmp_path / "s", stores=tmp_path / "i", view=silent_view).result()
    document = read_bundle(result.bundle)
    assert any(says in warning for warning in document.warnings)
    (test,) = (each for each in document.evaluations if each.split == "test")
    assert any("on_leak: keep" in note for note in test.notes) == (on_leak == "keep")
