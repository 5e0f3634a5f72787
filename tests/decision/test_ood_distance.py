"""The distance from the nearest image, its rank and what follows from it, on numbers drawn for the purpose."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import betabinom, ks_2samp

from consilia.data.folds import FoldPlan
from consilia.decision.ood.distance import MOST_ROWS, find_nearest, rank_p_values
from consilia.decision.ood.picture import N_FEATURES, PARTS, STARTS
from consilia.decision.ood.verdict import FLAG_BELOW, judge
from consilia.ensemble.ood import reference_rows
from consilia.ensemble.ood_reference import fit_pictures

MIXING = np.random.default_rng(99).normal(size=(N_FEATURES, N_FEATURES))


def draw(generator, n):
    """Skewed, correlated features: nothing here is normal."""
    return (generator.gamma(2, size=(n, N_FEATURES)) @ MIXING).astype(np.float32)


def draw_patients(generator, n, per_patient):
    """Features of `per_patient` images of each patient, which are much alike; and the patients."""
    noise = draw(generator, n * per_patient)
    return np.repeat(draw(generator, n), per_patient, axis=0) + 0.2 * noise, np.repeat(np.arange(n), per_patient)


def p_values(features, reference):
    return rank_p_values(find_nearest(features, reference).distances, reference.distances)


def flags_interval(n_new, n_reference):
    """Bounds that the number of flags among new images of the same kind keeps in 99 of 100 studies.

    At most c - 1 reference distances are as large, so a flag is as probable as the c-th largest of the reference makes
    it, which is drawn too.
    """
    c = int(np.ceil(FLAG_BELOW * (n_reference + 1))) - 1
    return betabinom(n_new, c, n_reference + 1 - c).interval(0.99)


def test_ranks_are_those_that_counting_gives():
    generator = np.random.default_rng(0)
    reference = np.sort(generator.integers(0, 20, 50)).astype(np.float32)
    distances = generator.integers(-2, 23, 30).astype(np.float32)
    expected = [(1 + (reference >= each).sum()) / 51 for each in distances]
    assert rank_p_values(distances, reference).tolist() == expected


def test_the_distance_is_that_of_the_nearest_image_in_standard_deviations():
    images, new = draw(np.random.default_rng(0), 150), draw(np.random.default_rng(1), 20)
    mean, deviations = images.astype(np.float64).mean(axis=0), images.astype(np.float64).std(axis=0)
    reference = fit_pictures(images, np.arange(150))
    pairs = cdist((new - mean) / deviations, (images - mean) / deviations)
    assert find_nearest(new, reference).distances == pytest.approx(pairs.min(axis=1), rel=1e-4)
    own = cdist((images - mean) / deviations, (images - mean) / deviations)
    np.fill_diagonal(own, np.inf)
    assert reference.distances == pytest.approx(np.sort(own.min(axis=1)), rel=1e-4)


def test_an_image_of_the_training_lies_at_no_distance():
    images = draw(np.random.default_rng(0), 150)
    assert (find_nearest(images, fit_pictures(images, np.arange(150))).distances == 0).all()


def test_the_part_that_is_unlike_above_all_is_named():
    images = draw(np.random.default_rng(0), 300)
    reference = fit_pictures(images, np.arange(300))
    for place, (start, n) in enumerate(zip(STARTS, PARTS.values(), strict=True)):
        new = images[:5].copy()
        new[:, start : start + n] += 9 * images.std(axis=0)[start : start + n]
        assert (find_nearest(new, reference).parts == place).all()


def test_the_order_of_the_images_does_not_show():
    features, groups = draw_patients(np.random.default_rng(0), 50, 3)
    order = np.random.default_rng(1).permutation(150)
    one, other = fit_pictures(features, groups), fit_pictures(features[order], groups[order])
    assert one.images == pytest.approx(other.images, abs=1e-5)


def test_a_feature_that_did_not_vary_is_heard_and_gives_no_infinity():
    images, new = draw(np.random.default_rng(0), 200), draw(np.random.default_rng(1), 200)
    images[:, 5] = 0
    new[:, 5] = 30 * images.std()
    reference = fit_pictures(images, np.arange(200))
    assert np.isfinite(find_nearest(new, reference).distances).all()
    assert (p_values(new, reference) == 1 / 201).all()


def test_a_feature_that_hardly_varied_does_not_outweigh_all_others():
    images, new = draw(np.random.default_rng(0), 200), draw(np.random.default_rng(1), 200)
    images[:, 5] = 1e-3 * images[:, 6]
    new[:, 5] = images[:, 5].mean() + 0.01 * images[:, 6].std()  # ten of its own standard deviations
    assert (p_values(new, fit_pictures(images, np.arange(200))) < FLAG_BELOW).mean() < 0.05


@pytest.mark.parametrize("n_reference", [200, 1000])
def test_new_images_of_the_same_kind_get_uniform_p_values_and_one_flag_in_a_hundred(n_reference):
    generator = np.random.default_rng(n_reference)
    reference = fit_pictures(draw(generator, n_reference), np.arange(n_reference))
    new = draw(generator, 5000)
    low, high = flags_interval(5000, n_reference)
    assert low <= (p_values(new, reference) < FLAG_BELOW).sum() <= high
    assert ks_2samp(find_nearest(new, reference).distances, reference.distances).pvalue > 0.01


def test_averaged_over_references_a_flag_is_no_more_probable_than_promised():
    generator = np.random.default_rng(5)
    shares = []
    for _ in range(200):
        reference = np.sort(generator.normal(size=250))
        shares.append((rank_p_values(generator.normal(size=1000), reference) < FLAG_BELOW).mean())
    # 2 of 251 ranks are below 0.01
    assert np.mean(shares) == pytest.approx(2 / 251, abs=4 * np.std(shares) / np.sqrt(200))


def test_new_patients_are_flagged_no_more_often_where_each_has_many_images():
    generator = np.random.default_rng(6)
    features, patients = draw_patients(generator, 100, 5)
    new = draw_patients(generator, 1000, 1)[0]
    honest = (p_values(new, fit_pictures(features, patients)) < FLAG_BELOW).mean()
    assert honest < 0.03
    # An image of the same patient lies nearer than any of another can.
    assert (p_values(new, fit_pictures(features, np.arange(500))) < FLAG_BELOW).mean() > 0.5


@pytest.mark.parametrize(
    ("n_reference", "expected"), [(99, "usual"), (100, "unusual"), (999, "unusual"), (1000, "rejected")]
)
def test_the_farthest_image_is_judged_by_what_the_reference_can_tell(n_reference, expected):
    assert judge(1 / (n_reference + 1), part="edges", n_reference=n_reference).state == expected


def test_a_p_value_of_exactly_one_percent_is_usual():
    assert judge(0.01, part="edges", n_reference=10_000).state == "usual"


@pytest.mark.parametrize(
    ("features", "groups", "message"),
    [
        (np.eye(5, N_FEATURES), np.zeros(5), "at least 2 patients"),
        (np.ones((5, N_FEATURES)), np.arange(5), "differ from each other"),
    ],
)
def test_what_no_reference_can_be_made_of_is_refused(features, groups, message):
    with pytest.raises(ValueError, match=message):
        fit_pictures(features.astype(np.float32), groups)


def test_at_most_so_many_images_are_compared_with_and_only_those_of_the_folds():
    fold = np.random.default_rng(0).integers(-2, 3, 60_000)
    folds = FoldPlan(digest="", store_digest="", k=3, seed=0, on_leak="error", fold=fold, group=np.arange(60_000))
    rows = reference_rows(folds, seed=4)
    assert len(rows) == MOST_ROWS
    assert set(fold[rows]) == {0, 1, 2}
    assert (np.diff(rows) > 0).all()
    assert (reference_rows(folds, seed=4) == rows).all()
