import numpy as np
import pytest

from consilia.config.recipe import BestSingle, Greedy, SoftVote
from consilia.decision.combination import LinearPool
from consilia.ensemble.choice import choose
from consilia.ensemble.selection import Truth
from consilia.metrics.scores import softmax


def candidates_with(noise_of_each, *, n_images=300, seed=0):
    """Candidates that see the truth through noise of their own plus noise that all share."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, n_images)
    shared = generator.normal(size=(n_images, 2))
    own = generator.normal(size=(len(noise_of_each), n_images, 2)) * np.array(noise_of_each)[:, None, None]
    truth = Truth(labels=labels, patients=np.arange(n_images).astype(str), folds=np.arange(n_images) % 3)
    return softmax(2 * np.eye(2)[labels] + shared * 0.5 + own), truth


@pytest.mark.parametrize("recipe", [SoftVote(members=4), Greedy(bags=5)], ids=lambda recipe: recipe.kind)
def test_an_ensemble_of_independent_errors_earns_its_place(recipe):
    choice = choose(recipe, *candidates_with([1.5] * 4), seed=0)
    assert len(choice.combination.members) > 1
    assert choice.gain > choice.standard_error > 0
    assert "earned its place" in choice.reason
    assert "every patient weighs the same" in choice.reason


def test_an_ensemble_that_gains_nothing_is_not_shipped():
    choice = choose(SoftVote(members=4), *candidates_with([0.2, 3.0, 3.0, 3.0]), seed=0)
    assert choice.combination == LinearPool(weights=(1.0, 0.0, 0.0, 0.0))
    assert choice.fold_combinations == (choice.combination,) * 3
    assert choice.gain < choice.standard_error
    assert "best single trial is shipped" in choice.reason
    assert f"{abs(choice.gain):.4f}" in choice.reason


def test_a_gain_within_one_standard_error_does_not_count():
    candidates, truth = candidates_with([0.5, 0.52], n_images=30, seed=3)
    choice = choose(SoftVote(members=2), candidates, truth, seed=0)
    assert (len(choice.combination.members) == 2) == (choice.gain > choice.standard_error)


def test_a_recipe_for_one_trial_is_not_compared():
    choice = choose(BestSingle(), *candidates_with([1.0, 1.0]), seed=0)
    assert (choice.gain, choice.standard_error) == (None, None)
    assert len(choice.combination.members) == 1


def test_a_selection_of_one_trial_says_so():
    choice = choose(Greedy(), *candidates_with([1.0]), seed=0)
    assert choice.combination == LinearPool(weights=(1.0,))
    assert "kept a single trial" in choice.reason
