"""The area against scikit-learn, its interval against simulation, and chance at a half."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from consilia.audit.area import area_in_folds, mean_interval


def one_fold(n: int) -> np.ndarray:
    return np.zeros(n, dtype=np.int64)


def test_in_one_fold_it_is_the_area_of_scikit_learn_ties_too():
    generator = np.random.default_rng(0)
    positive = generator.random(200) < 0.3
    scores = generator.integers(0, 8, 200) + positive.astype(float)
    area = area_in_folds(scores, positive, one_fold(200), np.arange(200))
    assert area is not None
    assert area.value == pytest.approx(roc_auc_score(positive, scores))
    assert area.influence.sum() == pytest.approx(0, abs=1e-12)


def test_images_of_different_folds_are_never_compared():
    generator = np.random.default_rng(1)
    positive, scores = generator.random(90) < 0.5, generator.random(90)
    folds = np.arange(90) % 3
    plain = area_in_folds(scores, positive, folds, np.arange(90))
    shifted = area_in_folds(scores + 10.0 * folds, positive, folds, np.arange(90))
    assert plain is not None
    assert shifted is not None
    assert shifted.value == plain.value
    by_fold = [roc_auc_score(positive[folds == each], scores[folds == each]) for each in range(3)]
    counts = [positive[folds == each].sum() for each in range(3)]
    assert plain.value == pytest.approx(np.average(by_fold, weights=counts))


@pytest.mark.parametrize("images", [1, 4])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(images):
    """Chance is the truth; each patient's images share their score but for some noise."""
    generator = np.random.default_rng(2)
    hits = 0
    for _ in range(300):
        patients = np.repeat(np.arange(60), images)
        scores = np.repeat(generator.normal(size=60), images) + 0.2 * generator.normal(size=60 * images)
        area = area_in_folds(scores, patients % 2 == 0, patients % 5, patients)
        assert area is not None
        interval = mean_interval([area], patients)
        hits += interval.low <= 0.5 <= interval.high
    assert 0.9 <= hits / 300 <= 0.99


def test_a_choice_among_classes_widens_the_interval_and_moves_nothing():
    generator = np.random.default_rng(3)
    area = area_in_folds(generator.random(80), np.arange(80) % 2 == 0, np.arange(80) % 5, np.arange(80))
    assert area is not None
    plain, wide = (mean_interval([area], np.arange(80), chosen_among=each) for each in (1, 8))
    assert wide.value == plain.value
    assert wide.low < plain.low < plain.high < wide.high


def test_without_two_patients_of_each_kind_there_is_no_area():
    positive = np.array([True, True, False, False])
    assert area_in_folds(np.arange(4.0), positive, one_fold(4), np.array([0, 0, 1, 2])) is None
    assert area_in_folds(np.arange(4.0), positive, np.array([0, 0, 1, 1]), np.arange(4)) is None
