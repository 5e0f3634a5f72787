"""The numbers behind the figures, against scikit-learn and against what is known of the case."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve as sklearn_precision_recall
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc

from consilia.metrics.diagrams import error_correlation, loss_by_size, precision_recall_curve, reliability, roc_curve
from consilia.metrics.scores import softmax


def drawn(n: int, *, seed: int = 0, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two classes, one image a patient; honest at sharpness 1."""
    generator = np.random.default_rng(seed)
    honest = softmax(generator.normal(size=(n, 2)) * 1.5)
    labels = (generator.random(n) < honest[:, 1]).astype(np.int64)
    return softmax(np.log(honest) * sharpness), labels, np.arange(n).astype(str)


def test_an_honest_predictor_stays_in_its_bands_and_an_over_confident_one_leaves_them():
    inside = []
    for seed in range(10):
        found = reliability(*drawn(1500, seed=seed), draws=200)
        inside += ((found.low <= found.accuracy) & (found.accuracy <= found.high)).tolist()
    assert np.mean(inside) > 0.9
    sure = reliability(*drawn(1500, sharpness=3.0), draws=200)
    assert (sure.accuracy < sure.low).mean() > 0.7
    assert (np.diff(sure.confidence) > 0).all()
    assert sure.images.sum() == 1500


def test_the_roc_curve_is_that_of_scikit_learn_and_has_its_area():
    probabilities, labels, patients = drawn(600)
    probabilities = probabilities.round(2)  # with ties
    found = roc_curve(probabilities[:, 1], labels == 1, patients, draws=50)
    false, true, _ = sklearn_roc(labels, probabilities[:, 1], drop_intermediate=False)
    keep = np.append(np.diff(false) > 0, True)  # the upper end of each vertical step
    off_steps = ~np.isclose(found.x[:, None], false[None]).any(axis=1)
    np.testing.assert_allclose(found.y[off_steps], np.interp(found.x, false[keep], true[keep])[off_steps], atol=0.02)
    assert np.trapezoid(found.y, found.x) == pytest.approx(roc_auc_score(labels, probabilities[:, 1]), abs=0.005)
    assert (np.diff(found.y) >= 0).all()
    assert ((found.low <= found.y + 0.05) & (found.y <= found.high + 0.05)).all()


def test_the_precision_at_each_recall_is_that_of_scikit_learn():
    probabilities, labels, patients = drawn(400, seed=3)
    found = precision_recall_curve(probabilities[:, 1], labels == 1, patients, draws=20)
    precision, recall, _ = sklearn_precision_recall(labels, probabilities[:, 1])
    for x, y in zip(found.x[1:], found.y[1:], strict=True):
        place = np.flatnonzero(recall >= x - 1e-9).max()  # the strictest threshold
        assert y == pytest.approx(precision[place])
    assert found.y[-1] >= labels.mean()


def test_a_class_that_nobody_has_draws_no_curve():
    probabilities, _, patients = drawn(20)
    assert roc_curve(probabilities[:, 1], np.zeros(20, bool), patients) is None
    assert precision_recall_curve(probabilities[:, 1], np.ones(20, bool), patients) is None


def test_images_of_one_patient_widen_the_band():
    probabilities, labels, patients = drawn(200)
    alone = roc_curve(probabilities[:, 1], labels == 1, patients, draws=200)
    copies = roc_curve(np.repeat(probabilities[:, 1], 5), np.repeat(labels == 1, 5), np.repeat(patients, 5), draws=200)
    pretended = roc_curve(np.repeat(probabilities[:, 1], 5), np.repeat(labels == 1, 5), np.arange(1000).astype(str))
    assert (copies.high - copies.low).mean() == pytest.approx((alone.high - alone.low).mean(), rel=0.1)
    assert (pretended.high - pretended.low).mean() < 0.6 * (copies.high - copies.low).mean()


def test_members_that_err_alike_correlate_and_independent_ones_do_not():
    generator = np.random.default_rng(0)
    labels = np.zeros(4000, dtype=np.int64)
    first, second = generator.random((2, 4000))
    members = np.stack([np.stack([p, 1 - p], axis=1) for p in (first, first, second)])
    found = error_correlation(members, labels)
    assert found[0, 1] == pytest.approx(1)
    assert abs(found[0, 2]) < 0.05
    assert error_correlation(members[:1], labels).shape == (1, 1)


def test_the_loss_by_size_ends_at_that_of_the_whole_and_starts_at_the_heaviest():
    members = np.random.default_rng(0).dirichlet(np.ones(2), size=(3, 50))
    labels, patients = np.arange(50) % 2, np.arange(50).astype(str)
    weights = np.array([0.2, 0.5, 0.3])
    found = loss_by_size(members, weights, labels, patients)

    def loss(probabilities: np.ndarray) -> float:
        return float(-np.log(probabilities[np.arange(50), labels]).mean())

    assert found[0] == pytest.approx(loss(members[1]))
    assert found[1] == pytest.approx(loss((0.5 * members[1] + 0.3 * members[2]) / 0.8))
    assert found[2] == pytest.approx(loss(np.tensordot(weights, members, axes=1)))
