"""The calibration error against a loop over pairs, and against simulations whose true error is known."""

from itertools import combinations

import numpy as np
import pytest

from consilia.metrics.bootstrap import patient_bootstrap
from consilia.metrics.calibration_error import n_bins, squared_calibration_error
from consilia.metrics.scores import METRICS


def simulated(n: int, *, temperature: float, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    """Probabilities (n, 2), labels, and the root mean squared error of their confidences; honest at temperature 1."""
    logits = generator.normal(0, 2, n)
    truth, said = 1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(-logits / temperature))
    labels = (generator.random(n) < truth).astype(np.int64)
    return np.column_stack([1 - said, said]), labels, float(np.sqrt(np.mean((said - truth) ** 2)))


def of_pairs(confidence, correct, weights, patients) -> float:
    """The definition, for confidences without ties and weights that make bins of equally many images."""
    total = 0.0
    for rows in np.array_split(np.argsort(confidence), n_bins(len(confidence))):
        pairs = [(i, j) for i, j in combinations(rows, 2) if patients[i] != patients[j]]
        gap = confidence - correct
        products = [weights[i] * weights[j] * gap[i] * gap[j] for i, j in pairs]
        total += weights[rows].sum() * sum(products) / sum(weights[i] * weights[j] for i, j in pairs)
    return total / weights.sum()


def test_the_squared_error_is_the_mean_over_pairs_of_different_patients():
    generator = np.random.default_rng(0)
    confidence, correct = generator.uniform(0.5, 1, 100), generator.integers(0, 2, 100).astype(float)
    patients = generator.integers(0, 30, 100)
    found = squared_calibration_error(confidence, correct, np.ones((1, 100)), patients)
    assert found[0] == pytest.approx(of_pairs(confidence, correct, np.ones(100), patients), abs=1e-12)
    alone = squared_calibration_error(confidence, correct, np.ones((1, 100)))
    assert alone[0] == pytest.approx(of_pairs(confidence, correct, np.ones(100), np.arange(100)), abs=1e-12)
    few = generator.uniform(0.5, 2.0, 39)  # one bin, whatever the weights
    weighted = squared_calibration_error(confidence[:39], correct[:39], few[None], patients[:39])
    assert weighted[0] == pytest.approx(of_pairs(confidence[:39], correct[:39], few, patients[:39]), abs=1e-12)


def test_bins_hold_twenty_images():
    assert [n_bins(n) for n in (1, 39, 40, 299, 300, 5000)] == [1, 1, 2, 14, 15, 15]


def test_copies_of_a_patients_image_are_no_evidence():
    probabilities, labels, _ = simulated(60, temperature=0.5, generator=np.random.default_rng(1))
    four = squared_calibration_error(
        np.repeat(probabilities.max(axis=1), 4),
        np.repeat(probabilities.argmax(axis=1) == labels, 4).astype(float),
        np.ones((1, 240)),
        np.repeat(np.arange(60), 4),
    )
    bins = np.array_split(np.argsort(probabilities.max(axis=1)), 12)  # of five patients
    gaps = probabilities.max(axis=1) - (probabilities.argmax(axis=1) == labels)
    pairs = [np.mean([gaps[i] * gaps[j] for i, j in combinations(rows, 2)]) for rows in bins]
    assert four[0] == pytest.approx(np.mean(pairs), abs=1e-12)


def test_a_single_patient_has_no_calibration_error():
    probabilities, labels, _ = simulated(30, temperature=1.0, generator=np.random.default_rng(1))
    assert np.isnan(METRICS["ece"].function(probabilities, labels, None, np.full(30, "a")))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("n", [100, 300])
def test_the_estimate_lies_in_its_interval_near_a_known_error_that_the_interval_covers(n, temperature):
    generator = np.random.default_rng(n)
    patients = np.arange(n).astype(str)
    values, covered, plain, truths = [], [], [], []
    for _ in range(60):
        probabilities, labels, true = simulated(n, temperature=temperature, generator=generator)
        found = patient_bootstrap(["ece"], probabilities, labels, patients, draws=200)["ece"]
        assert found.low <= found.value <= found.high
        values.append(found.value)
        covered.append(found.low <= true <= found.high)
        truths.append(true)
        bins = np.array_split(np.argsort(probabilities.max(axis=1)), 15)
        gaps = probabilities.max(axis=1) - (probabilities.argmax(axis=1) == labels)
        plain.append(sum(abs(gaps[rows].sum()) for rows in bins) / n)
    assert np.mean(covered) > 0.9
    bias = abs(np.mean(values) - np.mean(truths))
    assert bias < 0.04
    if temperature == 1.0:
        assert bias < np.mean(plain) / 2.5


def test_the_squared_error_is_unbiased_where_a_patients_images_err_together():
    generator = np.random.default_rng(3)
    errors = []
    for _ in range(300):
        confidence = np.repeat(generator.uniform(0.5, 1, 50), 4)  # of four images a patient, all right or all wrong
        correct = np.repeat(generator.random(50), 4) < confidence
        patients = np.repeat(np.arange(50), 4)
        errors.append(squared_calibration_error(confidence, correct.astype(float), np.ones((1, 200)), patients)[0])
    assert abs(np.mean(errors)) < 4 * np.std(errors) / np.sqrt(300)
