import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    brier_score_loss,
    log_loss,
    roc_auc_score,
)

from consilia.errors import PlanError
from consilia.metrics.scores import METRICS, metric, score, softmax

N_CLASSES = 3


def some_images(seed, *, n=200, n_classes=N_CLASSES, ties=False):
    """Probabilities, labels and weights; with `ties` the probabilities take few values."""
    generator = np.random.default_rng(seed)
    probabilities = softmax(generator.normal(size=(n, n_classes)))
    if ties:
        probabilities = np.round(probabilities, 1) + 0.1
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    labels = generator.integers(0, n_classes, n)
    return probabilities, labels, generator.uniform(0.1, 3.0, n)


def sklearn_macro_auc(labels, probabilities, weights):
    """Mean over classes of scikit-learn's binary AUC."""
    areas = [
        roc_auc_score(labels == number, probabilities[:, number], sample_weight=weights)
        for number in range(probabilities.shape[1])
    ]
    return np.mean(areas)


ORACLES = {
    "log_loss": lambda y, p, w: log_loss(y, p, sample_weight=w, labels=np.arange(p.shape[1])),
    "macro_auc": sklearn_macro_auc,
    "accuracy": lambda y, p, w: accuracy_score(y, p.argmax(axis=1), sample_weight=w),
    "balanced_accuracy": lambda y, p, w: balanced_accuracy_score(y, p.argmax(axis=1), sample_weight=w),
    "brier": lambda y, p, w: brier_score_loss(y, p, sample_weight=w, labels=np.arange(p.shape[1]), scale_by_half=False),
}


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_metric_equals_scikit_learns(name, ties, weighted, n_classes):
    probabilities, labels, weights = some_images(1, n_classes=n_classes, ties=ties)
    weights = weights if weighted else None
    expected = ORACLES[name](labels, probabilities, weights)
    assert METRICS[name].function(probabilities, labels, weights) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", [name for name in METRICS if name != "ece"])  # a copy is no pair with itself
def test_an_image_of_weight_two_counts_like_two_images(name):
    probabilities, labels, _ = some_images(2, n=40, ties=True)
    counts = np.random.default_rng(3).integers(0, 4, 40)
    rows = np.repeat(np.arange(40), counts)
    repeated = METRICS[name].function(probabilities[rows], labels[rows])
    weighted = METRICS[name].function(probabilities, labels, counts.astype(float))
    assert weighted == pytest.approx(repeated, abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_the_order_of_images_is_irrelevant(name):
    probabilities, labels, weights = some_images(4, ties=True)
    order = np.random.default_rng(5).permutation(len(labels))
    expected = METRICS[name].function(probabilities, labels, weights)
    shuffled = METRICS[name].function(probabilities[order], labels[order], weights[order])
    assert shuffled == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", [name for name, info in METRICS.items() if info.higher_is_better is not None])
def test_certain_truth_is_the_best_score(name):
    _, labels, _ = some_images(6)
    info = METRICS[name]
    best = info.function(np.eye(N_CLASSES)[labels], labels)
    assert best == pytest.approx(1.0 if info.higher_is_better else 0.0)
    worse = info.function(np.eye(N_CLASSES)[(labels + 1) % N_CLASSES], labels)
    assert (worse < best) == info.higher_is_better


def test_the_gap_is_positive_for_an_over_confident_model():
    labels = np.arange(100) % 2
    probabilities = np.tile([0.9, 0.1], (100, 1))  # right for half of them
    assert METRICS["signed_gap"].function(probabilities, labels) == pytest.approx(0.4)


def test_a_wrong_certainty_costs_a_finite_loss():
    loss = METRICS["log_loss"].function(np.array([[1.0, 0.0]]), np.array([1]))
    assert loss == pytest.approx(-np.log(1e-15))


def test_auc_leaves_out_a_class_without_images():
    probabilities, labels, _ = some_images(8)
    labels = np.where(labels == 2, 1, labels)
    expected = np.mean([roc_auc_score(labels == number, probabilities[:, number]) for number in (0, 1)])
    assert METRICS["macro_auc"].function(probabilities, labels) == pytest.approx(expected)


def test_auc_of_one_class_alone_is_nan():
    probabilities, labels, _ = some_images(9)
    assert np.isnan(METRICS["macro_auc"].function(probabilities, np.zeros_like(labels)))


def test_every_metric_is_scored_by_name():
    probabilities, labels, weights = some_images(10)
    scores = score(probabilities, labels, weights)
    assert scores == {name: info.function(probabilities, labels, weights) for name, info in METRICS.items()}


def test_an_unknown_metric_names_the_nearest():
    with pytest.raises(PlanError, match=r"'log_los': did you mean log_loss\?"):
        metric("log_los")
    with pytest.raises(PlanError, match="choose one of log_loss, macro_auc"):
        metric("xyz")


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.ones((2, 2)) / 2, np.array([0]), "one label an image"),
        (np.ones((0, 2)), np.array([], dtype=int), "at least one image"),
        (np.array([[np.nan, 0.5]]), np.array([0]), "must be finite"),
    ],
)
def test_what_cannot_be_scored_is_refused(probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        METRICS["accuracy"].function(probabilities, labels)


def test_softmax_does_not_overflow_and_ignores_a_shift():
    logits = np.array([[1000.0, 1001.0, 0.0], [-1000.0, -1001.0, -2000.0]])
    expected = np.array([[0.2689414213699951, 0.7310585786300049, 0.0], [0.7310585786300049, 0.2689414213699951, 0.0]])
    np.testing.assert_allclose(softmax(logits), expected, atol=1e-12)
    np.testing.assert_allclose(softmax(logits + 5.0), softmax(logits))
