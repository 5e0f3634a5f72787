import json
import math

import pytest

from consilia.config.record_files import (
    read_fold_result,
    read_refit_result,
    read_trial,
    trial_to_json,
    write_fold_result,
    write_refit_result,
    write_trial,
)
from consilia.config.records import FoldResult, RefitResult, TrialRecord
from consilia.config.space import Hyperparameters
from consilia.errors import StudyError

FOLD = FoldResult(fold=1, epochs=3, metrics={"log_loss": 0.25, "ece": 0.0}, n_images=30, seconds=1.5)
TRIAL = TrialRecord(
    number=12,
    state="finished",
    hyperparameters=Hyperparameters(architecture="resnet18", lr=3e-4, imbalance="focal"),
    folds=(FOLD,),
    objective=0.25,
    seconds=2.5,
)


def test_records_come_back_equal(tmp_path):
    write_fold_result(tmp_path / "result.json", FOLD)
    write_trial(tmp_path / "trial.json", TRIAL)
    assert read_fold_result(tmp_path / "result.json") == FOLD
    assert read_trial(tmp_path / "trial.json") == TRIAL
    assert json.loads((tmp_path / "trial.json").read_text()) == trial_to_json(TRIAL)


def test_a_refit_comes_back_equal_and_a_damaged_one_is_named(tmp_path):
    path = tmp_path / "result.json"
    refit = RefitResult(number=12, epochs=3, n_images=90, folds_digest="ab" * 32, seconds=2.5)
    write_refit_result(path, refit)
    assert read_refit_result(path) == refit
    write_fold_result(path, FOLD)
    with pytest.raises(StudyError, match=r"result\.json must be a refit result"):
        read_refit_result(path)


def test_an_undefined_metric_is_null_on_disk_and_nan_again_when_read(tmp_path):
    path = tmp_path / "result.json"
    write_fold_result(path, FoldResult(fold=0, epochs=1, metrics={"macro_auc": math.nan}, n_images=2, seconds=1.0))
    assert json.loads(path.read_text())["metrics"] == {"macro_auc": None}
    assert math.isnan(read_fold_result(path).metrics["macro_auc"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "must be readable JSON"),
        ("[]", "must hold a JSON object"),
        ('{"number": 1}', "state"),
        (json.dumps({**trial_to_json(TRIAL), "state": "lost"}), "state"),
        (json.dumps({**trial_to_json(TRIAL), "folds": [{"fold": 0}]}), r"folds\.0\.epochs"),
        (json.dumps({**trial_to_json(TRIAL), "folds": 3}), "folds"),
    ],
)
def test_a_damaged_record_is_refused_with_its_file_and_key(tmp_path, content, message):
    path = tmp_path / "trial.json"
    path.write_text(content)
    with pytest.raises(StudyError, match=message) as caught:
        read_trial(path)
    assert str(path) in str(caught.value)


def test_a_missing_record_is_named(tmp_path):
    with pytest.raises(StudyError, match=r"result\.json"):
        read_fold_result(tmp_path / "result.json")
