"""The noise of a trial's score, on a study folder made by hand."""

import numpy as np
import pandas as pd
import pytest
from search_records import task

from consilia.config.records import FoldResult, TrialRecord
from consilia.config.study_folder import StudyFolder
from consilia.errors import StudyError
from consilia.metrics.bootstrap import bootstrap_standard_error, patient_bootstrap
from consilia.metrics.scores import softmax
from consilia.train.tables import write_out_of_fold
from consilia.tune.limits import objective_noise

K, N_PATIENTS, IMAGES_EACH = 3, 60, 3
N = N_PATIENTS * IMAGES_EACH


@pytest.fixture(scope="module")
def images() -> pd.DataFrame:
    """Return the folds' table: three images of each patient, all in one fold, and some that are in none."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(N_PATIENTS), IMAGES_EACH)
    table = pd.DataFrame(
        {
            "image_id": np.arange(N),
            "patient_id": [f"p{patient}" for patient in patients],
            "label": rng.integers(0, 3, N_PATIENTS)[patients],
            "split": "train",
            "fold": patients % K,
            "group": patients,
        }
    )
    locked = table.head(9).assign(image_id=np.arange(N, N + 9), split="test", fold=-1)
    return pd.concat([table, locked]).sample(frac=1, random_state=0)  # the order of rows means nothing


@pytest.fixture(scope="module")
def logits(images: pd.DataFrame) -> np.ndarray:
    """Return logits of the images by id, (N, 3); a patient's images share what is hard about them."""
    rng = np.random.default_rng(1)
    labels = images.set_index("image_id")["label"].loc[np.arange(N)].to_numpy()
    of_patients = np.repeat(rng.normal(size=(N_PATIENTS, 3)), IMAGES_EACH, axis=0)
    return (of_patients + np.eye(3)[labels] + 0.3 * rng.normal(size=(N, 3))).astype(np.float32)


@pytest.fixture
def record(folder: StudyFolder, images: pd.DataFrame, logits: np.ndarray) -> TrialRecord:
    """Return trial 7, whose predictions are in the folder."""
    folder.root.mkdir(parents=True)
    images.to_parquet(folder.folds, index=False)
    folds = []
    for fold in range(K):
        ids = np.sort(images.loc[images["fold"] == fold, "image_id"].to_numpy())[::-1].copy()
        files = folder.trial(7).fold(fold)
        files.root.mkdir(parents=True)
        write_out_of_fold(files.oof, ids, logits[ids])
        folds.append(FoldResult(fold=fold, epochs=1, metrics={}, n_images=len(ids), seconds=1.0))
    return TrialRecord(
        number=7, state="finished", hyperparameters=task().hyperparameters, folds=tuple(folds), objective=0.9
    )


def by_id(images: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and patients of images 0 ... N-1."""
    table = images.set_index("image_id").loc[np.arange(N)]
    return table["label"].to_numpy(np.int64), table["patient_id"].to_numpy(str)


def test_the_noise_of_the_log_loss_is_its_bootstrap_error_over_patients(record, folder, images, logits):
    labels, patients = by_id(images)
    losses = -np.log(softmax(logits)[np.arange(N), labels])
    expected = bootstrap_standard_error(losses, patients, draws=500)
    assert objective_noise(record, folder=folder, metric="log_loss") == pytest.approx(expected)


def test_the_noise_of_the_log_loss_is_that_of_the_patients_means(record, folder, images, logits):
    labels, patients = by_id(images)
    losses = -np.log(softmax(logits)[np.arange(N), labels])
    means = pd.Series(losses).groupby(patients).mean()  # all patients have as many images
    error = means.std() / np.sqrt(N_PATIENTS)
    assert objective_noise(record, folder=folder, metric="log_loss") == pytest.approx(error, rel=0.15)
    assert error > 1.2 * losses.std(ddof=1) / np.sqrt(N)  # images of one patient are no independent cases


def test_the_noise_of_the_auc_is_a_quarter_of_its_interval(record, folder, images, logits):
    labels, patients = by_id(images)
    interval = patient_bootstrap(["macro_auc"], softmax(logits), labels, patients, draws=500)["macro_auc"]
    noise = objective_noise(record, folder=folder, metric="macro_auc")
    assert noise == pytest.approx((interval.high - interval.low) / 3.92)
    assert 0 < noise < 0.1


def test_a_missing_prediction_file_is_named(record, folder):
    folder.trial(7).fold(1).oof.unlink()
    with pytest.raises(StudyError, match=r"7/fold-1/oof\.parquet"):
        objective_noise(record, folder=folder, metric="log_loss")
