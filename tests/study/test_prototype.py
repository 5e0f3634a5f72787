"""One fold by hand is the fold that a whole training has."""

import numpy as np
import pandas as pd
import pytest

from consilia import read_plan, read_single_plan, search, train_fold
from consilia.errors import PlanError, UserError


@pytest.fixture
def places(trained, tmp_path):
    return {"studies": tmp_path / "studies", "stores": trained.stores}


def test_a_fold_is_that_of_the_whole_training_and_is_not_trained_again(trained, places, silent_view):
    by_hand = train_fold(trained.plan, fold=1, **places, view=silent_view)
    assert [(each.fold, each.epoch) for each in silent_view.epochs] == [(1, 1)]
    whole = trained.folder.trial(0).fold(1)
    file = places["studies"] / trained.plan.name / "trials" / "0" / "fold-1" / "weights.safetensors"
    assert file.read_bytes() == whole.weights.read_bytes()
    stamp = file.stat().st_mtime_ns
    again = train_fold(trained.plan, fold=1, **places, view=silent_view)
    assert len(silent_view.epochs) == 1
    assert again.predictions.equals(by_hand.predictions)
    study = search(trained.plan, **places)
    assert file.stat().st_mtime_ns == stamp
    assert study.trials()["fold_1"][0] == by_hand.metrics["log_loss"]


def test_each_image_of_the_fold_stands_with_its_own_label_and_patient(trained, places, phantoms):
    found = train_fold(trained.plan, **places)
    table = found.predictions
    truth = pd.read_csv(phantoms / "metadata.csv", dtype=str).set_index("path").loc[table["file"]]
    assert list(table["label"]) == list(truth["label"])
    assert list(table["patient"]) == list(truth["patient"])
    chances = table[[f"probability_{name}" for name in ("clear", "consolidation", "nodule")]].to_numpy()
    assert np.allclose(chances.sum(axis=1), 1)
    assert list(found.history["epoch"]) == [1]
    assert set(found.history["fold"]) == {0}


def test_a_search_and_a_fold_that_is_not_there_are_refused_before_anything_is_written(study_file, places):
    with pytest.raises(PlanError, match="read_single_plan makes a plan"):
        train_fold(read_plan(study_file, networks=False), **places)
    with pytest.raises(UserError, match=r"fold must be one of 0 \.\.\. 1, but is 2"):
        train_fold(read_single_plan(study_file), fold=2, **places)
    assert not places["studies"].exists()
