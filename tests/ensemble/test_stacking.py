"""A stack is compared with scikit-learn, with a plain minimiser, and with what is known of its optimum."""

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from consilia.decision.calibrators import calibrate
from consilia.decision.combination import centred_logs, combine
from consilia.ensemble import stacking
from consilia.ensemble.calibration import fit_temperature
from consilia.ensemble.selection import Truth
from consilia.ensemble.stacking import fit_stack, predict_left_out
from consilia.errors import FitError
from consilia.metrics.scores import image_log_loss, softmax


def some_members(*, qualities=(1.0, 1.5, 2.0), n_images=200, n_classes=3, seed=0, shared=0.7, sureness=1.5):
    """Members that see the truth through noise of their own and noise that all share, and are too sure."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, n_classes, n_images)
    quality = np.array(qualities)[:, None, None] * np.eye(n_classes)[labels]
    common = shared * generator.normal(size=(n_images, n_classes))
    logits = quality + common + generator.normal(size=(len(qualities), n_images, n_classes))
    return softmax(sureness * logits), labels


def folds_of(n_images, k=4):
    return np.arange(n_images) % k


def fit(members, labels, *, strengths=(10.0,), weights=None, folds=None):
    weights = np.ones(len(labels)) if weights is None else weights
    folds = folds_of(len(labels)) if folds is None else folds
    return fit_stack(members, labels, weights, folds, strengths=strengths)


def as_written(members, labels, weights, strength):
    """Minimise the loss of the module's docstring over d and b, without a gradient and in no other coordinates."""
    n_members, _, n_classes = members.shape
    logs = centred_logs(members)

    def matrices(flat):
        return flat[:-n_classes].reshape(n_members, n_classes, n_classes), flat[-n_classes:]

    def loss(flat):
        deviations, intercepts = matrices(flat)
        scores = logs.mean(axis=0) + np.einsum("mij,mjk->ik", logs, deviations) + intercepts
        return weights @ image_log_loss(softmax(scores), labels) + strength / 2 * (flat @ flat)

    found = minimize(loss, np.zeros(n_members * n_classes**2 + n_classes), method="BFGS", options={"gtol": 1e-5})
    deviations, intercepts = matrices(found.x)
    return deviations + np.eye(n_classes) / n_members, intercepts


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("strength", [1.0, 30.0])
def test_it_is_the_minimum_of_the_loss_as_written(n_classes, strength):
    members, labels = some_members(n_images=60, n_classes=n_classes)
    weights = np.random.default_rng(1).uniform(0.2, 2.0, 60)
    found = fit(members, labels, strengths=(strength,), weights=weights)
    coefficients, intercepts = as_written(members, labels, weights, strength)
    np.testing.assert_allclose(found.coefficients, coefficients, atol=1e-4)
    np.testing.assert_allclose(found.intercepts, intercepts, atol=1e-4)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_where_the_members_cancel_out_it_is_the_regression_of_scikit_learn(n_classes):
    first, labels = some_members(qualities=(1.5,), n_classes=n_classes, sureness=0.7)
    logs = centred_logs(first[0])
    members = softmax(np.stack([logs, -logs]))  # their geometric mean says nothing, so nothing is fixed
    weights = np.random.default_rng(1).uniform(0.2, 2.0, len(labels))
    found = combine(members, fit(members, labels, strengths=(5.0,), weights=weights))
    features = np.hstack([logs, -logs, np.ones((len(labels), 1))])  # the intercept is penalised like the others
    strength = 5.0 if n_classes > 2 else 2.5  # of two classes it fits one row of coefficients: twice the half of each
    oracle = LogisticRegression(C=1 / strength, fit_intercept=False, tol=1e-10, max_iter=5000)
    oracle.fit(features, labels, sample_weight=weights)
    np.testing.assert_allclose(found, oracle.predict_proba(features), atol=1e-6)


def test_an_infinite_strength_leaves_the_normalised_geometric_mean():
    members, labels = some_members()
    found = combine(members, fit(members, labels, strengths=(1e9,)))
    np.testing.assert_allclose(found, softmax(centred_logs(members).mean(axis=0)), atol=1e-5)


def test_an_image_twice_with_half_its_weight_changes_nothing():
    members, labels = some_members()
    weights, folds = np.ones(len(labels)), folds_of(len(labels))
    rows = np.append(np.arange(len(labels)), [3, 17])
    halved = weights[rows]
    halved[[3, 17, -2, -1]] /= 2
    once = fit(members, labels, strengths=(1.0, 10.0, 100.0), weights=weights, folds=folds)
    twice = fit(members[:, rows], labels[rows], strengths=(1.0, 10.0, 100.0), weights=halved, folds=folds[rows])
    assert once.strength == twice.strength
    np.testing.assert_allclose(once.coefficients, twice.coefficients, atol=1e-5)


def test_permuted_members_and_classes_permute_the_coefficients():
    members, labels = some_members(n_classes=4)
    found = np.array(fit(members, labels).coefficients)
    of_members = fit(members[[2, 0, 1]], labels)
    np.testing.assert_allclose(of_members.coefficients, found[[2, 0, 1]], atol=1e-5)
    order = np.array([3, 1, 0, 2])
    of_classes = fit(members[..., order], np.argsort(order)[labels])
    np.testing.assert_allclose(of_classes.coefficients, found[:, order][:, :, order], atol=1e-5)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_planted_combination_is_recovered_better_than_by_a_linear_pool(n_classes):
    # Members that see the truth through independent normal noise of known size: by Bayes their logits add up.
    generator = np.random.default_rng(0)
    labels = generator.integers(0, n_classes, 6000)
    noise = np.array([0.7, 1.0, 1.4])
    seen = np.eye(n_classes)[labels] + noise[:, None, None] * generator.normal(size=(3, 6000, n_classes))
    members = softmax(seen)
    best = softmax((seen / noise[:, None, None] ** 2).sum(axis=0))
    fitted, new = slice(0, 2000), slice(2000, None)
    stack = fit(members[:, fitted], labels[fitted], strengths=(1.0, 10.0, 100.0, 1000.0))
    coefficients = np.array(stack.coefficients)
    slopes = np.trace(coefficients - coefficients.mean(axis=1, keepdims=True), axis1=1, axis2=2) / (n_classes - 1)
    np.testing.assert_allclose(slopes, 1 / noise**2, rtol=0.15)

    def loss(probabilities):
        return image_log_loss(probabilities, labels[new]).mean()

    def linear_loss(weights):
        pooled = np.average(members, axis=0, weights=weights)
        patients = np.arange(2000).astype(str)
        known = Truth(labels=labels[fitted], patients=patients, folds=folds_of(2000))
        return loss(calibrate(fit_temperature(pooled[fitted], known), pooled[new]))

    linear = min(linear_loss(weights) for weights in generator.dirichlet(np.ones(3), 100))  # about the best there is
    found = loss(combine(members[:, new], stack))
    assert found < linear - 0.003
    assert found == pytest.approx(loss(best[new]), abs=0.005)


def test_members_that_know_nothing_do_no_harm():
    qualities = (1.5, 1.5, 0.0, 0.0, 0.0)
    differences = []
    for seed in range(5):
        members, labels = some_members(qualities=qualities, n_images=2300, seed=seed)
        fitted, new = slice(0, 300), slice(300, None)
        stack = fit(members[:, fitted], labels[fitted], strengths=(1.0, 10.0, 100.0, 1000.0))
        vote = image_log_loss(members[:, new].mean(axis=0), labels[new])
        differences.append((image_log_loss(combine(members[:, new], stack), labels[new]) - vote).mean())
    assert max(differences) < 0


def test_where_no_member_is_better_than_the_others_little_is_lost_against_their_geometric_mean():
    members, labels = some_members(qualities=(1.5,) * 5, n_images=4300)
    fitted, new = slice(0, 300), slice(300, None)
    stack = fit(members[:, fitted], labels[fitted], strengths=(1.0, 10.0, 100.0, 1000.0, 10000.0))
    equal = softmax(centred_logs(members[:, new]).mean(axis=0))
    excess = image_log_loss(combine(members[:, new], stack), labels[new]) - image_log_loss(equal, labels[new])
    assert excess.mean() < 0.03


def test_the_strength_is_the_best_of_a_cross_validation_over_the_folds():
    members, labels = some_members(n_images=120)
    weights, folds = np.random.default_rng(1).uniform(0.2, 2.0, 120), folds_of(120)
    strengths = (1.0, 10.0, 100.0, 1000.0)
    losses = [
        weights @ image_log_loss(predict_left_out(members, labels, weights, folds, strength=each), labels)
        for each in strengths
    ]
    found = fit(members, labels, strengths=strengths, weights=weights, folds=folds)
    assert found.strength == strengths[int(np.argmin(losses))]


def test_a_tie_and_a_single_fold_take_the_strongest():
    members, labels = some_members()
    assert fit(members, labels, strengths=(1.0, 100.0, 10.0), folds=np.zeros(200, dtype=int)).strength == 100.0
    same = np.full((2, 200, 2), 0.5)  # members that say nothing of labels that are even in every fold
    even = np.arange(200) // 4 % 2
    assert fit(same, even, strengths=(1.0, 10.0)).strength == 10.0


def test_an_image_is_left_out_of_the_stack_that_predicts_it():
    members, labels = some_members()
    weights, folds = np.ones(200), folds_of(200)
    changed = np.where(folds == 2, (labels + 1) % 3, labels)
    first, second = (predict_left_out(members, facts, weights, folds, strength=10.0) for facts in (labels, changed))
    np.testing.assert_array_equal(first[folds == 2], second[folds == 2])
    assert not np.allclose(first[folds == 1], second[folds == 1])
    others = fit(members[:, folds != 2], labels[folds != 2], folds=folds[folds != 2])
    np.testing.assert_allclose(first[folds == 2], combine(members[:, folds == 2], others))


def test_certain_members_and_a_class_that_a_fold_lacks_leave_finite_coefficients():
    members = np.stack([np.eye(3)[np.arange(90) % 3], np.eye(3)[(np.arange(90) + 1) % 3]])
    labels = np.where(np.arange(90) < 88, np.arange(90) % 2, 2)
    found = fit(members, labels, strengths=(0.001,), folds=np.arange(90) // 30)
    assert np.isfinite(combine(members, found)).all()


def test_a_missed_optimum_is_no_silent_result(monkeypatch):
    monkeypatch.setattr(stacking, "_STEPS", 1)
    members, labels = some_members()
    with pytest.raises(FitError, match=r"strength 0\.1 must reach its optimum, but after 1 steps"):
        fit(members, labels, strengths=(0.1,))


def test_a_vote_outlives_single_certain_errors_better_than_a_stack_of_few_images():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 4300)
    seen = np.where(generator.random((8, 4300)) < 0.1, generator.integers(0, 2, (8, 4300)), labels)
    members = softmax(5 * np.eye(2)[seen] + generator.normal(size=(8, 4300, 2)))
    fitted, new = slice(0, 300), slice(300, None)
    stack = fit(members[:, fitted], labels[fitted], strengths=(1.0, 10.0, 100.0, 1000.0))
    known = Truth(labels=labels[fitted], patients=np.arange(300).astype(str), folds=folds_of(300))
    vote = calibrate(fit_temperature(members[:, fitted].mean(axis=0), known), members[:, new].mean(axis=0))
    losses = [image_log_loss(each, labels[new]).mean() for each in (vote, combine(members[:, new], stack))]
    assert losses[0] < losses[1]
