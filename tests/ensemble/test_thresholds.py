import numpy as np
import pytest
from scipy.stats import norm

from consilia.ensemble.thresholds import choose_threshold, least_patients, operating_points
from consilia.metrics.clustered import clustered_rate


def choose(scores, positive, patients=None, *, goal="sensitivity", target=0.95):
    names = np.arange(len(scores)) if patients is None else patients
    return choose_threshold(
        np.asarray(scores, dtype=float),
        np.asarray(positive, dtype=bool),
        np.asarray(names).astype(str),
        name="pneumonia",
        goal=goal,
        target=target,
    )


@pytest.mark.parametrize("goal", ["sensitivity", "specificity"])
@pytest.mark.parametrize("copies", [1, 4])
def test_58_patients_without_an_error_refuse_a_target_of_95_and_59_accept_it(goal, copies):
    for n, accepted in ((58, False), (59, True)):
        positive = np.repeat([True] * n + [False] * n, copies)
        point = choose(positive * 0.8 + 0.1, positive, np.repeat(np.arange(2 * n), copies), goal=goal)
        assert (point.threshold is not None) == accepted
        assert (point.positives, point.positive_patients) == (n * copies, n)
        if accepted:
            assert (point.sensitivity.value, point.specificity.value) == (1.0, 1.0)
            assert getattr(point, goal).low >= 0.95
        else:
            assert "at least 59 patients" in point.reason
            assert "there are 58" in point.reason
            assert point.sensitivity is point.specificity is None


@pytest.mark.parametrize(("target", "least"), [(0.95, 59), (0.9, 29), (0.99, 299), (0.8, 14)])
def test_the_least_number_of_patients_is_where_the_bound_of_no_error_crosses_the_target(target, least):
    assert least_patients(target) == least
    assert clustered_rate(np.ones(least, bool), np.arange(least).astype(str)).low >= target
    assert clustered_rate(np.ones(least - 1, bool), np.arange(least - 1).astype(str)).low < target


def test_a_planted_threshold_is_found_and_the_next_score_misses_the_target():
    positives = np.linspace(0.2, 0.9, 200)
    negatives = np.linspace(0.0, 0.5, 300)
    scores, positive = np.concatenate([positives, negatives]), np.arange(500) < 200
    point = choose(scores, positive, target=0.9)
    lows = [clustered_rate(positives >= t, np.arange(200).astype(str)).low for t in positives]
    assert point.threshold == positives[np.flatnonzero(np.array(lows) >= 0.9)[-1]]
    assert point.sensitivity.low >= 0.9
    assert point.specificity.value == np.mean(negatives < point.threshold)


def test_the_specificitys_threshold_is_the_mirrored_sensitivitys():
    generator = np.random.default_rng(0)
    patients = generator.integers(0, 150, 600)
    positive = generator.random(600) < 0.5
    scores = np.round(generator.random(600) * 0.7 + positive * 0.3, 2)
    point = choose(scores, positive, patients, goal="specificity", target=0.8)
    mirrored = choose(-scores, ~positive, patients, target=0.8)
    assert point.threshold == np.nextafter(-mirrored.threshold, np.inf)
    assert (point.specificity, point.sensitivity) == (mirrored.sensitivity, mirrored.specificity)
    tighter = scores[(scores < point.threshold) & ~positive].max()
    assert clustered_rate(scores[~positive] < tighter, patients[~positive].astype(str)).low < 0.8


def test_every_threshold_on_the_safe_side_reaches_the_target_too():
    generator = np.random.default_rng(1)
    patients = np.repeat(np.arange(80), 5)
    scores = norm.cdf(0.7 * generator.normal(size=80)[patients] + 0.7 * generator.normal(size=400))
    point = choose(scores, np.ones(400, bool), patients, target=0.9)
    for safe in scores[scores <= point.threshold]:
        assert clustered_rate(scores >= safe, patients.astype(str)).low >= 0.9 - 1e-12


def test_a_threshold_that_was_chosen_on_its_images_keeps_its_promise_on_new_patients():
    """Without error in the bound, 5 of 100 chosen thresholds have a sensitivity below the target."""
    broken = {}
    for correlation in (0.0, 0.7, 1.0):
        below = 0
        for seed in range(300):
            generator = np.random.default_rng(seed)
            patients = np.repeat(np.arange(120), generator.choice([1, 2, 5], size=120))
            shared, own = generator.normal(size=120)[patients], generator.normal(size=len(patients))
            scores = norm.cdf(np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own)
            point = choose(scores, np.ones(len(scores), bool), patients, target=0.9)
            below += 1 - point.threshold < 0.9  # scores are uniform, so this is the sensitivity on new patients
        broken[correlation] = below / 300
    assert all(share <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300) for share in broken.values()), broken
    assert max(broken.values()) >= 0.01  # nor is the bound empty caution


def test_order_of_images_and_copies_of_every_image_change_nothing():
    generator = np.random.default_rng(2)
    patients = generator.integers(0, 120, 400)
    positive = generator.random(400) < 0.6
    scores = generator.random(400) * 0.6 + positive * 0.3
    point = choose(scores, positive, patients, target=0.8)
    rows = generator.permutation(np.repeat(np.arange(400), 2))
    other = choose(scores[rows], positive[rows], patients[rows], target=0.8)
    assert other.threshold == point.threshold
    for rate in ("sensitivity", "specificity"):
        for number in ("value", "low", "high", "effective"):
            assert getattr(getattr(other, rate), number) == pytest.approx(getattr(getattr(point, rate), number))


def test_a_class_is_chosen_against_the_rest():
    generator = np.random.default_rng(3)
    labels = np.arange(300) % 3
    probabilities = generator.dirichlet([1, 1, 1], size=300) * 0.4 + 0.6 * np.eye(3)[labels]
    patients = np.arange(300).astype(str)
    points = operating_points(probabilities, labels, patients, classes=("a", "b", "c"), goal="sensitivity", target=0.9)
    assert [point.name for point in points] == ["a", "b", "c"]
    assert points[1] == choose_threshold(
        probabilities[:, 1], labels == 1, patients, name="b", goal="sensitivity", target=0.9
    )


def test_without_negatives_there_is_no_specificity():
    point = choose(np.linspace(0, 1, 100), np.ones(100, bool))
    assert point.threshold is not None
    assert point.specificity is None


def test_impossible_targets_and_scores_are_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        choose([0.5], [True], target=1.0)
    with pytest.raises(ValueError, match="finite score"):
        choose([np.nan], [True])
