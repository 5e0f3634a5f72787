"""What usual images look like, found on those of the training. Source: docs/methods.md section 7.

Ledoit and Wolf, A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices, Journal of Multivariate
Analysis 2004. `decision.ood` measures images against it.
"""

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular
from sklearn.covariance import LedoitWolf

from consilia.decision.ood.distance import (
    FeatureReference,
    Features,
    Normal,
    Views,
    mahalanobis,
    measure_distance,
)
from consilia.decision.ood.inputs import (
    LAYOUT_SIDE,
    RULES,
    InputReference,
    ManyPixels,
    Rule,
    grey_values,
    histograms,
    in_blocks,
    layouts,
    measure_inputs,
)
from consilia.decision.ood.verdict import FLAG_BELOW

_LEAST_SPREAD = 1e-3  # of the median standard deviation: a channel that was silent in training varies by chance only
_TAIL = 0.005  # share of the training images on either side that a limit may cut off
_BEYOND = 0.25  # limits lie this much farther from the median than that share's quantile does


def fit_reference(trained_on: Views, held_out: Views) -> FeatureReference:
    """Describe usual images by what a network sees of them.

    Args:
        trained_on: Views of images that the network was trained on, at least 2; means and covariances are theirs.
        held_out: The same views of other images of the same kind, at least 1.

    Raises:
        ValueError: Too few images, unequal numbers of features, a feature that is not finite, or a view in which no
            feature varies.
    """
    normals = tuple(_fit_normal(*pair) for pair in zip(trained_on, held_out, strict=True))
    own = [mahalanobis(view, normal) for view, normal in zip(held_out, normals, strict=True)]
    # Where one in a hundred lies beyond the unit of either view, both have a say in which images are flagged, however
    # long the tails of one of them are.
    units = np.array([np.quantile(each, 1 - FLAG_BELOW) for each in own], dtype=np.float32)
    units = np.where(units > 0, units, np.float32(1))
    free = FeatureReference(normals=normals, units=units, distances=np.empty(0, dtype=np.float32))
    return FeatureReference(normals=normals, units=units, distances=np.sort(measure_distance(held_out, free)))


def fit_inputs(
    pixels: ManyPixels, *, aspect: npt.NDArray[np.float64], colour: npt.NDArray[np.float64] | None = None
) -> InputReference:
    """Describe usual images by the numbers of the rules.

    A limit lies a quarter farther from the median than the 99.5th percentile of the training images (or the 0.5th), and
    at least a margin beyond it: a few odd images among them change nothing, and of normally distributed numbers one in
    1,600 crosses it.

    Args:
        pixels: Of images of the training, at least 1.
        aspect: Width / height of each image's file, (n_images,).
        colour: See `measure_inputs`.
    """
    histogram, layout = np.zeros(256), np.zeros((LAYOUT_SIDE, LAYOUT_SIDE))
    for block in in_blocks(pixels):
        grey = grey_values(block)
        histogram += histograms(grey).sum(axis=0) / len(pixels)
        layout += layouts(grey).sum(axis=0) / len(pixels)
    free = np.tile([-np.inf, np.inf], (len(RULES), 1))
    reference = InputReference(histogram=histogram, layout=layout, limits=free)
    measures = measure_inputs(pixels, reference, aspect=aspect, colour=colour)
    limits = [_limits(rule, values) for rule, values in zip(RULES, measures.T, strict=True)]
    return InputReference(histogram=histogram, layout=layout, limits=np.array(limits))


def _fit_normal(trained_on: Features, held_out: Features) -> Normal:
    if len(trained_on) < 2 or len(held_out) < 1 or trained_on.shape[1] != held_out.shape[1]:
        raise ValueError(
            f"at least 2 images trained on and 1 held out must have the same features, but got {trained_on.shape} and "
            f"{held_out.shape}"
        )
    if not (np.isfinite(trained_on).all() and np.isfinite(held_out).all() and np.ptp(trained_on, axis=0).any()):
        raise ValueError("features must be finite and differ between images: weights or images are damaged")
    exact = trained_on.astype(np.float64)
    mean, scale = exact.mean(axis=0), _scale(exact)
    estimator = LedoitWolf(assume_centered=True, store_precision=False)  # its inverse would take most of the time
    covariance = estimator.fit((exact - mean) / scale).covariance_
    whitening = solve_triangular(np.linalg.cholesky(covariance), np.eye(len(mean)), lower=True) / scale
    return Normal(mean=mean.astype(np.float32), whitening=whitening.astype(np.float32))


def _scale(features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Standard deviation of each feature, so that the shrinkage treats all depths alike; (n_features,)."""
    deviations = features.std(axis=0)
    result: npt.NDArray[np.float64] = np.maximum(deviations, _LEAST_SPREAD * np.median(deviations[deviations > 0]))
    return result


def _limits(rule: Rule, values: npt.NDArray[np.float64]) -> tuple[float, float]:
    if np.isnan(values).any():
        return -np.inf, np.inf
    low, middle, high = np.quantile(values, [_TAIL, 0.5, 1 - _TAIL])
    least = low - max(_BEYOND * (middle - low), rule.margin)
    most = high + max(_BEYOND * (high - middle), rule.margin)
    return float(least) if rule.below else -np.inf, float(most) if rule.above else np.inf
