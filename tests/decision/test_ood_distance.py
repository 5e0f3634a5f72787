"""The distance, its rank and what follows from it, on numbers drawn for the purpose."""

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis as scipy_mahalanobis
from scipy.stats import betabinom, ks_2samp
from sklearn.covariance import LedoitWolf

from consilia.data.folds import FoldPlan
from consilia.decision.ood.distance import (
    MOST_ROWS,
    mahalanobis,
    measure_distance,
    p_values,
    rank_p_values,
    views,
)
from consilia.decision.ood.verdict import FLAG_BELOW, judge
from consilia.ensemble.ood import reference_rows
from consilia.ensemble.ood_reference import fit_reference

N_FEATURES = 20
MIXING = np.random.default_rng(99).normal(size=(N_FEATURES, N_FEATURES))


def draw(generator, n):
    """Two views of skewed, correlated features: nothing here is normal."""
    features = (generator.gamma(2, size=(n, N_FEATURES)) @ MIXING).astype(np.float32)
    return features[:, :12], features[:, 12:]


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


def test_features_that_are_no_numbers_get_the_smallest_p_value():
    reference = fit_reference(draw(np.random.default_rng(0), 200), draw(np.random.default_rng(1), 150))
    broken = draw(np.random.default_rng(2), 2)
    broken[0][0, 3], broken[1][1, 3] = np.nan, np.inf
    assert p_values(broken, reference).tolist() == [1 / 151, 1 / 151]


def test_the_distance_is_mahalanobis_under_the_shrunk_covariance():
    trained_on, new = draw(np.random.default_rng(0), 300)[0], draw(np.random.default_rng(1), 10)[0]
    deviations = trained_on.astype(np.float64).std(axis=0)
    inverse = np.linalg.inv(LedoitWolf().fit(trained_on / deviations).covariance_)
    mean = trained_on.mean(axis=0)
    expected = [scipy_mahalanobis(each / deviations, mean / deviations, inverse) for each in new]
    reference = fit_reference((trained_on,), (new,))
    assert mahalanobis(new, reference.normals[0]) == pytest.approx(expected, rel=1e-4)


def test_the_unit_of_a_feature_does_not_matter():
    sets = [draw(np.random.default_rng(seed), 200) for seed in range(3)]
    own = measure_distance(sets[2], fit_reference(*sets[:2]))
    scaled = [tuple(view * np.geomspace(0.1, 10, view.shape[1], dtype=np.float32) for view in each) for each in sets]
    assert measure_distance(scaled[2], fit_reference(*scaled[:2])) == pytest.approx(own, rel=1e-3)


def test_a_channel_that_was_silent_in_training_is_heard_and_gives_no_infinity():
    trained_on, held_out, new = (draw(np.random.default_rng(seed), 200) for seed in range(3))
    for each in (trained_on, held_out):
        each[0][:, 5] = 0
    reference = fit_reference(trained_on, held_out)
    new[0][:, 5] = 10 * trained_on[0].std()
    assert np.isfinite(measure_distance(new, reference)).all()
    assert (p_values(new, reference) == 1 / 201).all()


def test_long_tails_of_one_view_do_not_hide_what_another_shows():
    generator = np.random.default_rng(8)

    def wild_and_tame(n):
        return tuple(
            part.astype(np.float32) for part in (generator.standard_t(1.5, (n, 5)), generator.normal(size=(n, 5)))
        )

    reference = fit_reference(wild_and_tame(500), wild_and_tame(500))
    new = wild_and_tame(200)
    assert (p_values((new[0], new[1] + 4), reference) < FLAG_BELOW).mean() > 0.95
    together = fit_reference(*[(np.concatenate(wild_and_tame(500), axis=1),) for _ in range(2)])
    assert (p_values((np.concatenate((new[0], new[1] + 4), axis=1),), together) < FLAG_BELOW).mean() < 0.1


@pytest.mark.parametrize("n_reference", [150, 1000])
def test_new_images_of_the_same_kind_get_uniform_p_values_and_one_flag_in_a_hundred(n_reference):
    generator = np.random.default_rng(n_reference)
    reference = fit_reference(draw(generator, 100), draw(generator, n_reference))
    new = draw(generator, 5000)
    low, high = flags_interval(5000, n_reference)
    assert low <= (p_values(new, reference) < FLAG_BELOW).sum() <= high
    assert ks_2samp(measure_distance(new, reference), reference.distances).pvalue > 0.01


def test_averaged_over_references_a_flag_is_no_more_probable_than_promised():
    generator = np.random.default_rng(5)
    shares = []
    for _ in range(200):
        reference = np.sort(generator.normal(size=250))
        shares.append((rank_p_values(generator.normal(size=1000), reference) < FLAG_BELOW).mean())
    # 2 of 251 ranks are below 0.01
    assert np.mean(shares) == pytest.approx(2 / 251, abs=4 * np.std(shares) / np.sqrt(200))


def test_ranking_among_the_images_of_the_fit_would_flag_far_too_many():
    generator = np.random.default_rng(6)
    # 192 features of 150 images: a network has more features than a small data set has images, too.
    trained_on, new = ((np.concatenate([draw(generator, n)[0] for _ in range(16)], axis=1),) for n in (150, 5000))
    dishonest = fit_reference(trained_on, trained_on)
    assert (p_values(new, dishonest) < FLAG_BELOW).sum() > 2 * flags_interval(5000, 150)[1]


@pytest.mark.parametrize(
    ("n_reference", "expected"), [(99, "usual"), (100, "unusual"), (999, "unusual"), (1000, "rejected")]
)
def test_the_farthest_image_is_judged_by_what_the_reference_can_tell(n_reference, expected):
    assert judge(1 / (n_reference + 1), n_reference=n_reference).state == expected


def test_a_p_value_of_exactly_one_percent_is_usual():
    assert judge(0.01, n_reference=10_000).state == "usual"


@pytest.mark.parametrize(
    ("trained_on", "held_out", "message"),
    [
        (np.zeros((1, 3)), np.zeros((5, 3)), "at least 2"),
        (np.zeros((5, 3)), np.zeros((0, 3)), "1 held out"),
        (np.zeros((5, 3)), np.zeros((5, 4)), "same features"),
        (np.full((5, 3), np.nan), np.zeros((5, 3)), "finite"),
        (np.ones((5, 3)), np.zeros((5, 3)), "differ between images"),
    ],
)
def test_what_no_reference_can_be_made_of_is_refused(trained_on, held_out, message):
    with pytest.raises(ValueError, match=message):
        fit_reference((trained_on,), (held_out,))


def test_the_second_view_is_the_layout_which_turns_with_the_image():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 1), dtype=np.uint8)
    pooled, layout = views(np.ones((3, 5), dtype=np.float32), pixels)
    assert pooled.shape == (3, 5)
    assert layout.shape == (3, 64)
    turned = views(pooled, np.rot90(pixels, 2, axes=(1, 2)))[1]
    assert turned == pytest.approx(layout[:, ::-1])


def test_the_reference_network_ranks_among_images_it_never_saw():
    fold = np.random.default_rng(0).integers(-2, 3, 60_000)
    folds = FoldPlan(digest="", store_digest="", k=3, seed=0, on_leak="error", fold=fold, group=np.arange(60_000))
    trained_on, held_out = reference_rows(folds, 1, seed=4)
    assert len(trained_on) == len(held_out) == MOST_ROWS
    assert set(fold[trained_on]) == {0, 2}
    assert set(fold[held_out]) == {1}
    assert (np.diff(trained_on) > 0).all()
    again = reference_rows(folds, 1, seed=4)
    assert (again[0] == trained_on).all()
    assert (again[1] == held_out).all()
