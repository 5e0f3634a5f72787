import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from consilia.errors import PlanError
from consilia.metrics import bootstrap
from consilia.metrics.bootstrap import bootstrap_standard_error, patient_bootstrap
from consilia.metrics.patients import patient_weights
from consilia.metrics.scores import METRICS, softmax


@pytest.fixture
def images():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 60)
    patients = generator.integers(0, 25, 60).astype(str)
    return softmax(generator.normal(size=(60, 2)) + np.eye(2)[labels]), labels, patients


def test_the_interval_equals_that_of_a_loop_that_copies_images(images):
    probabilities, labels, patients = images
    oracles = {
        "log_loss": lambda y, p: log_loss(y, p, labels=[0, 1]),
        "macro_auc": lambda y, p: roc_auc_score(y, p[:, 1]),
        "accuracy": lambda y, p: accuracy_score(y, p.argmax(axis=1)),
    }
    names = np.unique(patients)
    counts = np.random.default_rng(7).multinomial(len(names), np.full(len(names), 1 / len(names)), size=100)
    drawn = [
        np.concatenate([np.tile(np.flatnonzero(patients == name), c) for name, c in zip(names, draw, strict=True)])
        for draw in counts
    ]
    intervals = patient_bootstrap(list(oracles), probabilities, labels, patients, draws=100, seed=7)
    for name, oracle in oracles.items():
        low, high = np.percentile([oracle(labels[rows], probabilities[rows]) for rows in drawn], [2.5, 97.5])
        assert intervals[name].low == pytest.approx(low, abs=1e-12)
        assert intervals[name].high == pytest.approx(high, abs=1e-12)
        assert intervals[name].value == pytest.approx(oracle(labels, probabilities), abs=1e-12)


def test_the_size_of_a_block_changes_nothing(images, monkeypatch):
    whole = patient_bootstrap(list(METRICS), *images, draws=50)
    monkeypatch.setattr(bootstrap, "_BLOCK_NUMBERS", 7 * 60)
    pieces = patient_bootstrap(list(METRICS), *images, draws=50)
    assert {name: i.low for name, i in pieces.items()} == pytest.approx({n: i.low for n, i in whole.items()})


def test_the_same_seed_gives_the_same_interval_and_another_seed_another(images):
    first = patient_bootstrap(["accuracy", "brier"], *images, draws=200, seed=1)
    assert patient_bootstrap(["accuracy", "brier"], *images, draws=200, seed=1) == first
    assert patient_bootstrap(["accuracy", "brier"], *images, draws=200, seed=2) != first


def test_copies_of_a_patients_image_do_not_narrow_the_interval(images):
    probabilities, labels, patients = (np.concatenate([part] * 4) for part in images)
    one = patient_bootstrap(["log_loss"], *images, draws=300)["log_loss"]
    four = patient_bootstrap(["log_loss"], probabilities, labels, patients, draws=300)["log_loss"]
    assert (four.low, four.high) == pytest.approx((one.low, one.high))


def test_draws_without_a_class_are_left_out_of_the_interval():
    labels = np.array([0] * 9 + [1])  # a third of the draws lack the only image of class 1
    probabilities = np.column_stack([1 - labels * 0.8, labels * 0.8])
    interval = patient_bootstrap(["macro_auc"], probabilities, labels, np.arange(10).astype(str), draws=50)
    assert interval["macro_auc"].low == interval["macro_auc"].high == 1.0


def test_an_undefined_metric_has_an_undefined_interval():
    probabilities = np.full((4, 2), 0.5)
    interval = patient_bootstrap(["macro_auc"], probabilities, np.zeros(4, int), np.array(list("abcd")), draws=10)
    assert np.isnan([interval["macro_auc"].value, interval["macro_auc"].low, interval["macro_auc"].high]).all()


def test_the_standard_error_is_that_of_a_mean():
    values = np.random.default_rng(0).normal(size=400)
    error = bootstrap_standard_error(values, np.arange(400).astype(str), draws=4000)
    assert error == pytest.approx(values.std() / 20, rel=0.05)


def test_the_standard_error_takes_a_patients_images_together():
    values, patients = np.random.default_rng(0).normal(size=100), np.arange(100).astype(str)
    copied = bootstrap_standard_error(np.repeat(values, 4), np.repeat(patients, 4))
    assert copied == pytest.approx(bootstrap_standard_error(values, patients))


def test_every_patient_weighs_one(images):
    patients = images[2]
    weights = patient_weights(patients)
    for name in np.unique(patients):
        assert weights[patients == name].sum() == pytest.approx(1.0)


def test_an_unknown_metric_and_a_missing_patient_are_refused(images):
    with pytest.raises(PlanError, match="did you mean accuracy"):
        patient_bootstrap(["acuracy"], *images)
    with pytest.raises(ValueError, match="every image must have a patient"):
        patient_bootstrap(["accuracy"], images[0], images[1], images[2][:-1])
