"""Stacking: a multinomial logistic regression on the members' log-probabilities. Source: docs/methods.md section 4.

With l_mj the centred log-probability that member m of M gives to class j, the score of class k and the loss are

    s_k  = mean_m l_mk  +  sum_mj l_mj d_mjk  +  b_k,     p = softmax(s)
    loss = sum_i w_i (-log p_i)  +  strength / 2 (sum d^2 + sum b^2)

with p_i the probability of image i's class and w_i its weight. So what is penalised is the distance from the members'
normalised geometric mean, which an infinite strength leaves, and not that from one prediction for all images.
scikit-learn's LogisticRegression, whose 1 / C is the strength, has no place for the first, fixed term; where that term
is 0 both have one optimum.

Source: Wolpert, Stacked Generalization, Neural Networks 1992; Ting and Witten, Issues in Stacked Generalization, JAIR
1999 (stacking class probabilities); Egozcue et al., Mathematical Geology 2003 (isometric log-ratios).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cholesky, helmert, solve_triangular
from scipy.optimize import minimize
from scipy.special import logsumexp

from consilia.config.records import Labels, Probabilities
from consilia.decision.combination import Stack, centred_logs
from consilia.errors import FitError
from consilia.metrics.scores import Weights, softmax

Members = npt.NDArray[np.float64]  # (n_members, n_images, n_classes), out-of-fold probabilities
Folds = npt.NDArray[np.int64]  # (n_images,) the fold that held each image out
Deviations = npt.NDArray[np.float64]  # (n_classes - 1, n_features): d, and b as the last column, in log-ratios

_LOSS_DECIMALS = 9
_TOLERANCE, _LOOSE = 1e-5, 1e-2  # of the scaled gradient: half its square is about the loss left to gain, in nats
_STEPS = 500


def fit_stack(members: Members, labels: Labels, weights: Weights, folds: Folds, *, strengths: Sequence[float]) -> Stack:
    """Return the stack of the strength with the lowest log loss in a cross-validation over the folds.

    A tie goes to the stronger one, and so does a single fold, where there is nothing to compare on.

    Args:
        members: At least two.
        labels: True class of each image, (n_images,).
        weights: Of each image, (n_images,).
        folds: Of each image; a patient must be of one fold.
        strengths: To choose from, in any order.

    Raises:
        FitError: A fit misses its optimum.
    """
    regression = _pose(members, labels, weights)
    strength = _choose_strength(regression, folds, sorted(strengths, reverse=True))
    (deviations,) = _fit(regression, [strength])
    return _as_stack(deviations, regression.contrasts, n_members=len(members), strength=strength)


def predict_left_out(
    members: Members, labels: Labels, weights: Weights, folds: Folds, *, strength: float
) -> Probabilities:
    """Return each image by a stack that is fitted without its fold, (n_images, n_classes).

    Arguments as of `fit_stack`; there must be two folds or more.
    """
    regression = _pose(members, labels, weights)
    result = np.empty(members.shape[1:])
    for fold in np.unique(folds):
        left_out = folds == fold
        (deviations,) = _fit(regression.subset(~left_out), [strength])
        result[left_out] = softmax(regression.subset(left_out).scores(deviations).T)
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Regression:
    """What is fitted, class by class: c classes have c - 1 log-ratios, which keep all distances."""

    features: npt.NDArray[np.float64]  # (n_features, n_images): the log-ratios of every member, and a row of ones
    offsets: npt.NDArray[np.float64]  # (n_classes, n_images), mean_m l_mk
    contrasts: npt.NDArray[np.float64]  # (n_classes - 1, n_classes), orthonormal rows of sum 0
    labels: Labels  # (n_images,)
    weights: Weights  # (n_images,)

    def subset(self, kept: npt.NDArray[np.bool_]) -> "_Regression":
        return _Regression(
            features=self.features[:, kept],
            offsets=self.offsets[:, kept],
            contrasts=self.contrasts,
            labels=self.labels[kept],
            weights=self.weights[kept],
        )

    def scores(self, deviations: Deviations) -> npt.NDArray[np.float64]:
        """Return s, (n_classes, n_images)."""
        result: npt.NDArray[np.float64] = self.offsets + (self.contrasts.T @ deviations) @ self.features
        return result


def _pose(members: Members, labels: Labels, weights: Weights) -> _Regression:
    logs = centred_logs(members)
    contrasts: npt.NDArray[np.float64] = helmert(logs.shape[-1])
    ratios = (contrasts @ logs.transpose(0, 2, 1)).reshape(-1, logs.shape[1])
    return _Regression(
        features=np.concatenate([ratios, np.ones((1, logs.shape[1]))]),
        offsets=np.ascontiguousarray(logs.mean(axis=0).T),
        contrasts=contrasts,
        labels=labels,
        weights=weights,
    )


def _choose_strength(regression: _Regression, folds: Folds, strengths: Sequence[float]) -> float:
    """Return the best of `strengths`, which descend."""
    numbers = np.unique(folds)
    if len(strengths) == 1 or len(numbers) == 1:
        return strengths[0]
    losses = np.zeros(len(strengths))
    for fold in numbers:
        left_out = regression.subset(folds == fold)
        for place, deviations in enumerate(_fit(regression.subset(folds != fold), strengths)):
            losses[place] += _loss(left_out, deviations)
    return strengths[int(np.argmin(np.round(losses / regression.weights.sum(), _LOSS_DECIMALS)))]


def _fit(regression: _Regression, strengths: Sequence[float]) -> Iterator[Deviations]:
    """Yield the optimum of each strength; they descend, and each starts from the one before it.

    L-BFGS, in coordinates in which the loss is about as curved in every direction at its start: members say much the
    same, so in the deviations themselves it would crawl.
    """
    start = softmax(regression.offsets.T)
    curvature = regression.weights * (start * (1 - start)).mean(axis=1)
    gram = (regression.features * curvature) @ regression.features.T
    found = np.zeros((len(regression.contrasts), len(gram)))
    for strength in strengths:
        root = cholesky(gram + strength * np.eye(len(gram)))
        found = _minimise(regression, strength, root, found)
        yield found


def _minimise(regression: _Regression, strength: float, root: npt.NDArray[np.float64], start: Deviations) -> Deviations:
    """Return the deviations of the lowest penalised loss; what L-BFGS sees of them is `deviations @ root.T`."""
    images = np.arange(len(regression.labels))
    inverse = solve_triangular(root, np.eye(len(root)))
    by_image = np.ascontiguousarray(regression.features.T)

    def penalised(flat: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        deviations = flat.reshape(start.shape) @ inverse.T
        scores = regression.scores(deviations)
        scores -= scores.max(axis=0)
        true = scores[regression.labels, images]
        errors = np.exp(scores, out=scores)  # on the way to the derivative of the scores
        sums = errors.sum(axis=0)
        value = float(regression.weights @ (np.log(sums) - true)) + strength / 2 * float((deviations**2).sum())
        errors *= regression.weights / sums
        errors[regression.labels, images] -= regression.weights
        slope = regression.contrasts @ (errors @ by_image) + strength * deviations
        return value, (slope @ inverse).ravel()

    options = {"gtol": _TOLERANCE, "ftol": 0.0, "maxiter": _STEPS, "maxcor": 20}
    result = minimize(penalised, (start @ root.T).ravel(), jac=True, method="L-BFGS-B", options=options)
    if not np.abs(result.jac).max() <= _LOOSE:  # true for NaN too
        raise FitError(
            f"A stack of regularisation strength {strength:g} must reach its optimum, but after {result.nit} steps its "
            f"gradient is {np.abs(result.jac).max():.2g}. Leave that strength out of the recipe, or choose soft_vote."
        )
    optimum: Deviations = result.x.reshape(start.shape) @ inverse.T
    return optimum


def _loss(regression: _Regression, deviations: Deviations) -> float:
    """Return the weighted sum of the images' log losses without the penalty, in nats."""
    scores = regression.scores(deviations)
    true = scores[regression.labels, np.arange(scores.shape[1])]
    return float(regression.weights @ (logsumexp(scores, axis=0) - true))


def _as_stack(deviations: Deviations, contrasts: npt.NDArray[np.float64], *, n_members: int, strength: float) -> Stack:
    """Return from log-ratios to classes."""
    n_ratios, n_classes = contrasts.shape
    ratios = deviations[:, :-1].reshape(n_ratios, n_members, n_ratios)  # (to class ratio, member, from class ratio)
    matrices = np.einsum("rj,tmr,tk->mjk", contrasts, ratios, contrasts) + np.eye(n_classes) / n_members
    return Stack(
        coefficients=matrices.tolist(), intercepts=(contrasts.T @ deviations[:, -1]).tolist(), strength=strength
    )
