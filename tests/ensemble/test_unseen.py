import numpy as np

from consilia.config.recipe import Stacked
from consilia.decision.combination import LinearPool, combine
from consilia.decision.conformal import calibrate_sets, conforming_classes
from consilia.ensemble.selection import Truth, select, weighted_log_loss
from consilia.ensemble.unseen import combine_unseen
from consilia.metrics.scores import softmax


def known_images(*, n_images=90, seed=0):
    """Four candidates and what is true; patients have three images each."""
    generator = np.random.default_rng(seed)
    patients = np.arange(n_images) // 3
    labels = generator.integers(0, 2, n_images // 3)[patients]
    truth = Truth(labels=labels, patients=patients.astype(str), folds=patients % 3)
    return softmax(np.eye(2)[labels] + generator.normal(size=(4, n_images, 2))), truth


def stacked(candidates, truth, strength):
    return select(Stacked(members=3, strengths=(strength,)), candidates, truth, seed=0)


def test_a_linear_pool_is_taken_as_it_is():
    candidates, truth = known_images()
    pool = LinearPool(weights=(0.1, 0.2, 0.3, 0.4))
    np.testing.assert_array_equal(combine_unseen(candidates, pool, truth), combine(candidates, pool))


def test_a_stack_is_fitted_again_without_the_fold_but_of_the_same_members_and_strength():
    candidates, truth = known_images()
    stack = stacked(candidates, truth, 5.0)
    unseen = combine_unseen(candidates, stack, truth)
    members = candidates[list(stack.members)]
    for fold in range(3):
        others = truth.folds != fold
        again = stacked(members[:, others], truth.subset(others), 5.0)
        np.testing.assert_allclose(unseen[~others], combine(members[:, ~others], again), atol=1e-8)


def test_images_that_it_was_not_fitted_to_are_taken_as_they_are():
    candidates, truth = known_images()
    fitted = truth.folds != 1
    stack = stacked(candidates[:, fitted], truth.subset(fitted), 5.0)
    found = combine_unseen(candidates, stack, truth, fitted=fitted)
    np.testing.assert_array_equal(found[~fitted], combine(candidates[:, ~fitted], stack))
    np.testing.assert_array_equal(found[fitted], combine_unseen(candidates[:, fitted], stack, truth.subset(fitted)))


def test_images_of_one_fold_are_taken_as_they_are():
    candidates, truth = known_images()
    one = truth.folds == 0
    stack = stacked(candidates[:, one], truth.subset(one), 5.0)
    np.testing.assert_array_equal(
        combine_unseen(candidates[:, one], stack, truth.subset(one)), combine(candidates[:, one], stack)
    )


def test_on_the_images_that_it_was_fitted_to_a_stack_looks_better_than_it_is():
    flattery = []
    for seed in range(10):
        candidates, truth = known_images(seed=seed)
        stack = stacked(candidates, truth, 0.1)
        seen, unseen = combine(candidates, stack), combine_unseen(candidates, stack, truth)
        flattery.append(weighted_log_loss(unseen, truth) - weighted_log_loss(seen, truth))
    assert min(flattery) > 0


def test_prediction_sets_of_a_stack_cover_new_images_only_if_made_of_unseen_ones():
    covered = {"seen": [], "unseen": []}
    for seed in range(20):
        generator = np.random.default_rng(seed)
        labels = generator.integers(0, 3, 2100)
        common = 1.2 * np.eye(3)[labels] + 0.5 * generator.normal(size=(2100, 3))
        pool, new = softmax(common + generator.normal(size=(2, 4, 2100, 3)))  # images to fit it to, new ones
        candidates, new = pool[:, :100], new[:, 100:]
        truth = Truth(labels=labels[:100], patients=np.arange(100).astype(str), folds=np.arange(100) % 5)
        stack = select(Stacked(members=4, strengths=(1.0,)), candidates, truth, seed=0)
        folds = np.repeat(combine(new, stack)[None], 5, axis=0)
        made_of = {"seen": combine(candidates, stack), "unseen": combine_unseen(candidates, stack, truth)}
        for name, probabilities in made_of.items():
            conforming = conforming_classes(calibrate_sets(probabilities, truth, alpha=0.1), folds)
            covered[name].append(conforming[np.arange(2000), labels[100:]].mean())
    assert np.mean(covered["seen"]) < 0.87
    assert np.mean(covered["unseen"]) > 0.9 - 3 * np.std(covered["unseen"]) / np.sqrt(20)
