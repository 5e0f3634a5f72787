import numpy as np
import pytest

from consilia.config.recipe import BestSingle, Greedy, SoftVote
from consilia.decision.combination import LinearPool, combine
from consilia.ensemble.selection import (
    Truth,
    combine_cross_fitted,
    cross_fit,
    select,
    select_greedily,
    weighted_log_loss,
)
from consilia.metrics.scores import softmax

RECIPES = [BestSingle(), SoftVote(members=3), Greedy(bags=5, members=3)]


def some_candidates(*, n_candidates=8, n_images=60, seed=0, worst=0.0):
    """Candidates of growing quality, from `worst` to 1.5, with independent errors."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, n_images)
    patients = generator.integers(0, n_images // 2, n_images).astype(str)
    truth = Truth(labels=labels, patients=patients, folds=np.unique(patients, return_inverse=True)[1] % 3)
    logits = generator.normal(size=(n_candidates, n_images, 3))
    logits += np.linspace(worst, 1.5, n_candidates)[:, None, None] * np.eye(3)[labels]
    return softmax(logits), truth


def naive_greedy(candidates, truth, additions):
    """Caruana's algorithm as written: every addition scored by the log loss of the mean."""
    added, best, best_loss = [], [], np.inf
    for _ in range(additions):
        losses = [
            weighted_log_loss(candidates[[*added, number]].mean(axis=0), truth) for number in range(len(candidates))
        ]
        added.append(int(np.argmin(losses)))
        if min(losses) < best_loss - 1e-12:
            best, best_loss = list(added), min(losses)
    return np.bincount(best, minlength=len(candidates))


def true_probabilities(candidates, truth):
    return candidates[:, np.arange(len(truth.labels)), truth.labels]


def image_weights(truth):
    _, numbers, counts = np.unique(truth.patients, return_inverse=True, return_counts=True)
    return 1 / counts[numbers]


@pytest.mark.parametrize("seed", range(4))
def test_greedy_selection_equals_the_algorithm_as_written(seed):
    candidates, truth = some_candidates(seed=seed)
    counts = select_greedily(true_probabilities(candidates, truth), image_weights(truth), additions=12)
    np.testing.assert_array_equal(counts, naive_greedy(candidates, truth, 12))


@pytest.mark.parametrize("seed", range(4))
def test_more_additions_never_raise_the_loss(seed):
    candidates, truth = some_candidates(seed=seed)
    losses = []
    for additions in range(1, 20):
        counts = select_greedily(true_probabilities(candidates, truth), image_weights(truth), additions=additions)
        losses.append(weighted_log_loss(np.average(candidates, axis=0, weights=counts), truth))
    assert np.all(np.diff(losses) <= 1e-12)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.kind)
def test_weights_are_not_negative_and_sum_to_one(recipe):
    candidates, truth = some_candidates()
    pool = select(recipe, candidates, truth, seed=0)
    assert min(pool.weights) >= 0
    assert sum(pool.weights) == pytest.approx(1)
    assert len(pool.members) <= getattr(recipe, "members", 1)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.kind)
def test_of_equal_candidates_the_earliest_is_taken(recipe):
    candidates, truth = some_candidates(n_candidates=1)
    chosen = select(recipe, np.repeat(candidates, 6, axis=0), truth, seed=0).members
    assert chosen == tuple(range(len(chosen)))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.kind)
def test_a_candidate_after_the_chosen_that_is_worse_changes_nothing(recipe):
    candidates, truth = some_candidates(n_candidates=3)
    wrong = np.full_like(candidates[:1], 1e-6)
    wrong[0, np.arange(len(truth.labels)), (truth.labels + 1) % 3] = 1 - 2e-6
    recipe = recipe.model_copy(update={"pool": 3}) if isinstance(recipe, Greedy) else recipe
    without = select(recipe, candidates, truth, seed=0)
    assert select(recipe, np.concatenate([candidates, wrong]), truth, seed=0).weights[:3] == without.weights


def test_the_best_single_has_the_lowest_patient_weighted_loss():
    candidates, truth = some_candidates()
    losses = [weighted_log_loss(candidate, truth) for candidate in candidates]
    assert select(BestSingle(), candidates, truth, seed=0).members == (np.argmin(losses),)


def test_many_images_of_one_patient_do_not_outvote_the_others():
    good, bad = [0.9, 0.1], [0.1, 0.9]
    candidates = np.array([[good] * 20 + [bad] * 4, [bad] * 20 + [good] * 4])
    patients = np.array(["a"] * 20 + ["b", "c", "d", "e"])
    truth = Truth(labels=np.zeros(24, int), patients=patients, folds=np.arange(24) % 2)
    assert select(BestSingle(), candidates, truth, seed=0).weights == (0.0, 1.0)  # 4 patients against 1


def test_independent_errors_are_averaged_away():
    candidates, truth = some_candidates(n_images=200, worst=1.5)
    losses = {
        recipe.kind: weighted_log_loss(combine(candidates, select(recipe, candidates, truth, seed=0)), truth)
        for recipe in RECIPES
    }
    assert losses["greedy"] < losses["best_single"]
    assert losses["soft_vote"] < losses["best_single"]


def test_the_same_seed_gives_the_same_weights():
    candidates, truth = some_candidates()
    first = select(Greedy(bags=3), candidates, truth, seed=5)
    assert select(Greedy(bags=3), candidates, truth, seed=5) == first


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.kind)
def test_labels_of_a_fold_do_not_reach_the_selection_that_predicts_it(recipe):
    candidates, truth = some_candidates()
    changed = Truth(
        labels=np.where(truth.folds == 1, (truth.labels + 1) % 3, truth.labels),
        patients=truth.patients,
        folds=truth.folds,
    )
    first, second = (cross_fit(recipe, candidates, facts, seed=0) for facts in (truth, changed))
    assert first[1] == second[1]
    assert (first[0], first[2]) != (second[0], second[2])


def test_cross_fitted_predictions_take_each_fold_from_its_own_weights():
    candidates, truth = some_candidates()
    pools = [LinearPool(weights=tuple(weights)) for weights in np.eye(len(candidates))[[4, 2, 7]].tolist()]
    combined = combine_cross_fitted(candidates, pools, truth)
    for fold, candidate in enumerate([4, 2, 7]):
        rows = truth.folds == fold
        np.testing.assert_allclose(combined[rows], candidates[candidate][rows])
