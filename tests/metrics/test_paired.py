import numpy as np
import pytest

from consilia.metrics.bootstrap import patient_bootstrap
from consilia.metrics.paired import compare_paired
from consilia.metrics.scores import METRICS, softmax


def predictors(*, own=0.3, lead=0.0, n_images=400, seed=0):
    """Two predictors that share most of their errors; the first knows the labels better by `lead`."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, n_images)
    patients = (np.arange(n_images) // 2).astype(str)
    shared = generator.normal(size=(n_images, 3)) + np.eye(3)[labels]
    first, second = (shared + own * generator.normal(size=(n_images, 3)) for _ in range(2))
    return softmax(first + lead * np.eye(3)[labels]), softmax(second), labels, patients


def by_name(first, second, labels, patients, **settings):
    return {each.metric: each for each in compare_paired(first, second, labels, patients, draws=300, **settings)}


def test_a_predictor_differs_from_itself_by_exactly_nothing():
    first, _, labels, patients = predictors()
    for each in compare_paired(first, first.copy(), labels, patients, draws=50):
        assert (each.difference.value, each.difference.low, each.difference.high) == (0.0, 0.0, 0.0)
        assert each.verdict == "cannot be told"
        assert each.first == each.second


def test_each_side_is_what_it_is_alone():
    first, second, labels, patients = predictors()
    found = by_name(first, second, labels, patients)
    for side, probabilities in (("first", first), ("second", second)):
        alone = patient_bootstrap(list(METRICS), probabilities, labels, patients, draws=300)
        for name, interval in alone.items():
            estimate = getattr(found[name], side)
            assert (estimate.value, estimate.low, estimate.high) == (interval.value, interval.low, interval.high)


@pytest.mark.parametrize("name", ["log_loss", "macro_auc", "accuracy", "brier"])
def test_pairing_narrows_the_interval_of_predictors_that_err_alike(name):
    found = by_name(*predictors())[name]
    paired = found.difference.high - found.difference.low
    unpaired = np.hypot(found.first.high - found.first.low, found.second.high - found.second.low)
    assert paired < 0.6 * unpaired


def test_the_interval_equals_that_of_a_loop_over_copied_images():
    first, second, labels, patients = predictors(n_images=60)
    _, numbers = np.unique(patients, return_inverse=True)
    counts = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), size=300)[:, numbers]
    loss = METRICS["log_loss"].function
    rows = [np.repeat(np.arange(60), count) for count in counts]
    differences = [loss(first[each], labels[each]) - loss(second[each], labels[each]) for each in rows]
    found = by_name(first, second, labels, patients)["log_loss"].difference
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(differences, [2.5, 97.5])))


def test_a_real_lead_is_found_and_from_the_other_side_a_real_lag():
    first, second, labels, patients = predictors(lead=0.5)
    forth, back = by_name(first, second, labels, patients), by_name(second, first, labels, patients)
    for name in ("log_loss", "macro_auc", "accuracy", "brier"):
        assert (forth[name].verdict, back[name].verdict) == ("better", "worse")
        assert forth[name].difference.value == pytest.approx(-back[name].difference.value)


def test_of_the_signed_gap_the_smaller_one_is_better_whatever_its_sign():
    labels, patients = np.array([0] * 150 + [1] * 50), np.arange(200).astype(str)  # accuracy 0.75
    under, over = (np.tile([share, 1 - share], (200, 1)) for share in (0.70, 0.95))
    found = by_name(under, over, labels, patients)["signed_gap"]
    assert found.first.value == pytest.approx(-0.05)
    assert found.difference.value == pytest.approx(0.05 - 0.20)
    assert found.verdict == "better"


def test_of_twenty_nine_patients_nothing_is_claimed_and_of_thirty_it_is():
    labels = np.tile([0, 1], 15)
    good, bad = (np.where(np.eye(2)[labels] == 1, share, 1 - share) for share in (0.9, 0.6))
    for n_patients, verdict in ((30, "better"), (29, "cannot be told")):
        patients = np.minimum(np.arange(30), n_patients - 1).astype(str)
        assert by_name(good, bad, labels, patients)["brier"].verdict == verdict


def test_an_undefined_metric_is_none_and_tells_nothing():
    first, second, labels, patients = predictors()
    found = by_name(first, second, np.zeros_like(labels), patients)["macro_auc"]
    assert (found.first, found.second, found.difference, found.verdict) == (None, None, None, "cannot be told")


def test_predictors_of_unequal_images_are_refused():
    first, second, labels, patients = predictors()
    with pytest.raises(ValueError, match="the same images"):
        compare_paired(first[1:], second, labels, patients)
