import numpy as np
import pytest

from consilia.metrics.scores import METRICS, softmax
from consilia.metrics.subgroups import Scored, make_groups, score_subgroups


def scored_and_sites(*, lag=0.0, n_images=600, seed=0):
    """Images of sites a, b and c; at b the predictor knows the labels worse by `lag`."""
    generator = np.random.default_rng(seed)
    labels, patients = generator.integers(0, 2, n_images), np.arange(n_images) // 2
    sites = np.array(list("abc"))[patients % 3]
    signal = np.where(sites == "b", 2.0 - lag, 2.0)
    logits = generator.normal(size=(n_images, 2)) + signal[:, None] * np.eye(2)[labels]
    scored = Scored(
        probabilities=softmax(logits), labels=labels, patients=patients.astype(str), classes=("clear", "nodule")
    )
    return scored, make_groups("site", sites.tolist())


def test_groups_add_up_to_the_whole():
    scored, groups = scored_and_sites()
    found = score_subgroups(scored, groups, draws=50).groups
    assert [each.name for each in found] == ["a", "b", "c"]
    assert sum(each.images for each in found) == len(scored.labels)
    assert sum(each.patients for each in found) == len(np.unique(scored.patients))
    by_class = [sum(each.by_class[name] for each in found) for name in scored.classes]
    assert by_class == np.bincount(scored.labels).tolist()
    for name in ("accuracy", "log_loss", "brier"):
        mean = sum(each.metrics[name].value * each.images for each in found) / len(scored.labels)
        assert mean == pytest.approx(METRICS[name].function(scored.probabilities, scored.labels))


def test_a_planted_bad_group_is_found_and_it_alone():
    scored, groups = scored_and_sites(lag=1.7)
    found = {each.name: each for each in score_subgroups(scored, groups, draws=200).groups}
    assert set(found["b"].worse) >= {"macro_auc", "accuracy", "log_loss", "brier"}
    assert found["a"].worse == found["c"].worse == ()


def test_groups_without_a_difference_are_rarely_called_worse():
    calls = [
        len(each.worse)
        for seed in range(10)
        for each in score_subgroups(*scored_and_sites(seed=seed), metric_names=["accuracy"], draws=100).groups
    ]
    assert sum(calls) <= 4  # of 30, where 0.75 are expected


def test_a_gap_is_to_all_other_images_and_its_draws_are_of_all_patients():
    scored, groups = scored_and_sites(n_images=120)
    patients = np.arange(120) % 40  # each has images of two or three sites
    scored = Scored(
        probabilities=scored.probabilities, labels=scored.labels, patients=patients.astype(str), classes=scored.classes
    )
    names, numbers = np.unique(scored.patients, return_inverse=True)
    counts = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), size=200)[:, numbers]
    inside = groups.codes == 1
    accuracy = METRICS["accuracy"].function

    def gap(weights):
        return np.subtract(
            *(accuracy(scored.probabilities[r], scored.labels[r], weights[r]) for r in (inside, ~inside))
        )

    found = score_subgroups(scored, groups, metric_names=["accuracy"], draws=200).groups[1].gaps["accuracy"]
    assert found.value == pytest.approx(gap(np.ones(120)))
    expected = np.percentile([gap(draw.astype(float)) for draw in counts], [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx(tuple(expected))


def test_a_small_group_is_shown_with_a_warning_and_without_a_claim():
    scored, _ = scored_and_sites()
    labels = scored.labels.copy()
    labels[:58] = 1 - scored.probabilities[:58].argmax(axis=1)  # all wrong, 29 patients
    wrong = Scored(probabilities=scored.probabilities, labels=labels, patients=scored.patients, classes=scored.classes)
    groups = make_groups("site", ["x"] * 58 + ["y"] * 542)
    small, large = score_subgroups(wrong, groups, draws=50).groups
    assert small.metrics["accuracy"].value == 0.0
    assert small.gaps["accuracy"].high < 0
    assert small.worse == ()
    assert small.warnings == ("29 patients, under 30: too few for a claim",)
    assert large.warnings == ()


def test_a_group_without_a_class_says_so_and_has_no_gap_in_means_over_classes():
    scored, _ = scored_and_sites()
    groups = make_groups("site", np.where(scored.labels == 0, "x", "y").tolist())
    for each, missing in zip(score_subgroups(scored, groups, draws=50).groups, ("nodule", "clear"), strict=True):
        assert each.warnings == (f"no image of class {missing}",)
        assert each.metrics["macro_auc"] is None
        assert each.gaps["macro_auc"] is None
        assert each.gaps["log_loss"] is not None


def test_a_group_of_all_images_has_no_others():
    scored, _ = scored_and_sites(n_images=100)
    (whole,) = score_subgroups(scored, make_groups("site", ["x"] * 100), draws=50).groups
    assert set(whole.gaps.values()) == {None}
    assert whole.worse == ()


def test_a_draw_without_a_patient_of_a_small_group_is_left_out():
    scored, _ = scored_and_sites(n_images=100)
    groups = make_groups("site", ["x"] * 2 + ["y"] * 98)
    small = score_subgroups(scored, groups, metric_names=["log_loss"], draws=50).groups[0]
    value = METRICS["log_loss"].function(scored.probabilities[:2], scored.labels[:2])
    estimate = small.metrics["log_loss"]
    assert (estimate.low, estimate.high) == pytest.approx((value, value))


def test_calibration_has_a_value_and_no_gap():
    scored, groups = scored_and_sites()
    for each in score_subgroups(scored, groups, metric_names=["signed_gap", "ece"], draws=50).groups:
        assert None not in each.metrics.values()
        assert each.gaps == {"signed_gap": None, "ece": None}
