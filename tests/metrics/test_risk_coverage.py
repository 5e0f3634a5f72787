import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from consilia.metrics.patients import patient_weights
from consilia.metrics.risk_coverage import LEVELS, augrc, aurc, choose_abstention, risk_coverage


def answers(confidence, wrong):
    """Probabilities of three classes with this maximum, and labels that make them wrong where asked."""
    confidence = np.asarray(confidence, dtype=float)
    rest = (1 - confidence) / 2
    return np.column_stack([confidence, rest, rest]), np.asarray(wrong).astype(np.int64)


def areas(confidence, wrong):
    probabilities, labels = answers(confidence, wrong)
    ones = np.ones((1, len(labels)))
    return aurc(probabilities, labels, ones)[0], augrc(probabilities, labels, ones)[0]


def names(n):
    return np.arange(n).astype(str)


@pytest.fixture
def images():
    generator = np.random.default_rng(0)
    confidence = np.round(generator.uniform(0.4, 1, size=300), 2)  # with ties
    patients = generator.integers(0, 90, 300).astype(str)
    return (*answers(confidence, generator.random(300) > confidence), patients)


@pytest.mark.parametrize(("n", "errors"), [(10, 3), (200, 20), (7, 0), (5, 5)])
def test_the_areas_of_a_perfect_ranking_are_the_closed_forms(n, errors):
    found = areas(np.linspace(0.9, 0.5, n), np.arange(n) >= n - errors)
    share = errors / n
    assert found[0] == pytest.approx(sum(j / (n - errors + j) for j in range(1, errors + 1)) / n)
    assert found[1] == pytest.approx(share**2 / 2)
    if errors == 20:
        assert found[0] == pytest.approx(share + (1 - share) * np.log(1 - share), abs=1 / n)


def test_equal_confidences_give_the_error_rate_and_half_of_it():
    assert areas(np.full(50, 0.7), np.arange(50) < 10) == pytest.approx((0.2, 0.1))


def test_the_aurc_is_the_mean_selective_risk_over_images(images):
    probabilities, labels, _ = images
    confidence, wrong = probabilities.max(axis=1), labels != 0
    expected = np.mean([wrong[confidence >= threshold].mean() for threshold in confidence])
    assert aurc(probabilities, labels, np.ones((1, 300)))[0] == pytest.approx(expected)


def test_the_augrc_follows_from_the_auroc_of_right_against_wrong(images):
    probabilities, labels, patients = images
    right = labels == 0
    for weights in (np.ones(300), patient_weights(patients)):
        error = np.average(~right, weights=weights)
        auroc = roc_auc_score(right, probabilities.max(axis=1), sample_weight=weights)
        expected = (1 - auroc) * error * (1 - error) + error**2 / 2
        assert augrc(probabilities, labels, weights[None])[0] == pytest.approx(expected)


def test_a_weighting_is_as_good_as_copies_of_the_images(images):
    probabilities, labels, _ = images
    counts = np.random.default_rng(1).integers(0, 4, 300)
    rows = np.repeat(np.arange(300), counts)
    for area in (aurc, augrc):
        weighted = area(probabilities, labels, np.stack([np.ones(300), counts.astype(float)]))[1]
        assert weighted == pytest.approx(area(probabilities[rows], labels[rows], np.ones((1, len(rows))))[0])


def test_the_curve_holds_coverage_and_risk_of_every_threshold(images):
    probabilities, labels, patients = images
    curve = risk_coverage(probabilities, labels, patients)
    confidence, weights = probabilities.max(axis=1), patient_weights(patients)
    for threshold, coverage, risk in zip(curve.thresholds, curve.coverage, curve.risk, strict=True):
        kept = confidence >= threshold
        assert coverage == pytest.approx(weights[kept].sum() / weights.sum())
        assert risk == pytest.approx(np.average(labels[kept] != 0, weights=weights[kept]))
    assert curve.coverage[-1] == pytest.approx(1.0)
    assert (np.diff(curve.thresholds) < 0).all()


def test_order_and_copies_of_every_image_change_nothing(images):
    probabilities, labels, patients = images
    rows = np.random.default_rng(2).permutation(np.repeat(np.arange(300), 3))
    once = risk_coverage(probabilities, labels, patients)
    thrice = risk_coverage(probabilities[rows], labels[rows], patients[rows])
    np.testing.assert_array_equal(thrice.thresholds, once.thresholds)
    np.testing.assert_allclose([thrice.coverage, thrice.risk], [once.coverage, once.risk])
    assert (thrice.aurc, thrice.augrc) == pytest.approx((once.aurc, once.augrc))
    points = [
        choose_abstention(*args, target=0.3) for args in (images, (probabilities[rows], labels[rows], patients[rows]))
    ]
    assert points[0].threshold == points[1].threshold is not None
    assert points[0].upper == pytest.approx(points[1].upper)


def test_a_planted_confidence_is_found():
    """Below .8 half is wrong, above nothing: 60 % of 1,000 images can be answered."""
    confidence = np.concatenate([np.linspace(0.99, 0.8, 600), np.linspace(0.79, 0.5, 400)])
    wrong = (np.arange(1000) >= 600) & (np.arange(1000) % 2 == 0)
    point = choose_abstention(*answers(confidence, wrong), names(1000), target=0.02)
    assert (point.threshold, point.coverage, point.risk) == (pytest.approx(0.8), pytest.approx(0.6), 0.0)
    assert point.upper == pytest.approx(1 - (0.05 / LEVELS) ** (1 / 600))
    assert "60 %" in point.reason


@pytest.mark.parametrize(("n", "accepted"), [(116, False), (117, True)])
def test_a_risk_that_the_data_cannot_show_is_refused(n, accepted):
    point = choose_abstention(*answers(np.full(n, 0.9), np.zeros(n)), names(n), target=0.05)
    assert (point.threshold is not None) == accepted
    if not accepted:
        assert "At least 117" in point.reason
        assert point.coverage is point.risk is point.upper is None


def test_images_of_one_patient_that_are_wrong_together_count_once():
    generator = np.random.default_rng(3)
    confidence, wrong = generator.uniform(0.6, 1, 200), generator.random(200) < 0.03
    single = choose_abstention(*answers(confidence, wrong), names(200), target=0.15)
    patients = np.repeat(np.arange(200), 6).astype(str)
    copied = choose_abstention(*answers(np.repeat(confidence, 6), np.repeat(wrong, 6)), patients, target=0.15)
    assert copied.effective == pytest.approx(single.effective)
    assert copied.threshold == single.threshold is not None


def test_a_threshold_that_was_chosen_among_coverages_keeps_its_promise_on_new_patients():
    broken = refused = 0
    for seed in range(300):
        generator = np.random.default_rng(seed)
        patients = np.repeat(np.arange(200), 2)
        confidence = generator.uniform(0.5, 1, 400)
        chance = np.repeat(generator.uniform(0, 2, size=200), 2) * (1 - confidence)  # of an error; mean 1 - confidence
        point = choose_abstention(
            *answers(confidence, generator.random(400) < chance), patients.astype(str), target=0.2
        )
        if point.threshold is None:
            refused += 1
        else:
            broken += (1 - point.threshold) / 2 > 0.2  # mean error of confidences that are uniform above it
    assert broken / 300 <= 0.05
    assert refused < 30


def test_a_target_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        choose_abstention(*answers([0.9], [0]), names(1), target=0.0)
