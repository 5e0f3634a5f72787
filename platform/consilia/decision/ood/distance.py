"""How far an image lies from those of the training, as one network sees them. Source: docs/methods.md section 7.

Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks, NeurIPS 2018,
for the distance; Bates et al., Testing for Outliers with Conformal p-values, Annals of Statistics 2023, for its rank.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular
from sklearn.covariance import LedoitWolf

from consilia.config.records import Familiarity, Rows
from consilia.data.folds import FoldPlan
from consilia.decision.ood.layout import grey_values, layouts

Features = npt.NDArray[np.float32]  # (n_images, n_features)
Views = tuple[Features, ...]  # of the same images
Distances = npt.NDArray[np.float32]  # (n_images,)

FLAG_BELOW = 0.01  # p-value
REJECT_BELOW = 0.001
REJECT_FROM = 1000  # reference images; with fewer, no p-value is surely below `REJECT_BELOW`
MOST_ROWS = 2000  # of either kind: one pass of each through a network is what an ensemble's gate costs to build
_LEAST_SPREAD = 1e-3  # of the median standard deviation: a channel that was silent in training has none of its own


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Normal:
    """Mean and covariance of one view of the training images."""

    mean: npt.NDArray[np.float32]  # (n_features,)
    whitening: npt.NDArray[np.float32]  # (n_features, n_features), lower triangular; makes the covariance 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeatureReference:
    """What usual images look like to one network, and at 8 x 8 pixels."""

    normals: tuple[Normal, ...]  # one a view
    units: npt.NDArray[np.float32]  # (n_views,), what each view's distances are measured in
    distances: npt.NDArray[np.float32]  # (n_reference,), ascending; of images that the network was not trained on


def reference_rows(folds: FoldPlan, fold: int, *, seed: int) -> tuple[Rows, Rows]:
    """Return the rows to fit the reference of `fold`'s network on, and those whose distances are ranked against.

    The former are images it was trained on, the latter those that the fold held out: to a network its own training
    images lie nearer than new ones do. At most 2,000 of each, drawn at random: images and not whole patients, since the
    more patients there are among them, the less a p-value depends on the draw.
    """
    generator = np.random.default_rng([seed, fold])
    return _draw(folds.training(fold), generator), _draw(folds.validation(fold), generator)


def views(pooled: Features, pixels: npt.NDArray[np.uint8]) -> Views:
    """Return what images are judged by: the network's features, and the layout, (n_images, 64).

    Pooling forgets where things are, so that an image upside down differs little: the layout knows.

    Args:
        pooled: Of `train.networks.layers.logits_and_features`, (n_images, n_pooled).
        pixels: Of the same images, as stored, (n_images, size, size, channels).
    """
    return pooled, layouts(grey_values(pixels)).reshape(len(pixels), -1).astype(np.float32)


def fit_reference(trained_on: Views, held_out: Views) -> FeatureReference:
    """Describe usual images.

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


def measure_distance(images: Views, reference: FeatureReference) -> Distances:
    """Return the largest of each image's distances in its views, in their units, (n_images,)."""
    each = [mahalanobis(view, normal) for view, normal in zip(images, reference.normals, strict=True)]
    with np.errstate(all="ignore"):
        result: Distances = (np.stack(each, axis=1) / reference.units).max(axis=1)
    return result


def mahalanobis(features: Features, normal: Normal) -> Distances:
    """Return each image's Mahalanobis distance from the mean of the training images, (n_images,)."""
    centred = features.astype(np.float32) - normal.mean
    with np.errstate(all="ignore"):  # features that are not finite give NaN or infinity, which rank last
        result: Distances = np.linalg.norm(centred @ normal.whitening.T, axis=1)
    return result


def p_values(images: Views, reference: FeatureReference) -> npt.NDArray[np.float64]:
    """Return, for each image, how often a usual one would lie as far away or farther, (n_images,).

    (1 + number of reference distances at least as large) / (n_reference + 1). Over usual images, and over references,
    a value of at most p comes up with a probability of about p at most. An image whose features are not finite gets
    the smallest value there is.
    """
    return rank_p_values(measure_distance(images, reference), reference.distances)


def rank_p_values(distances: npt.NDArray[np.floating], reference: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the rank p-values of `distances`, (n,), among `reference`, (n_reference,), which is ascending."""
    below = np.searchsorted(reference, distances, side="left")  # NaN comes after every number
    result: npt.NDArray[np.float64] = (1 + len(reference) - below) / (len(reference) + 1)
    return result


def verdict(p_value: float, *, n_reference: int) -> Familiarity:
    """Say what becomes of an image.

    A reference of fewer than 100 images calls none unusual, and one of fewer than 1,000 rejects none.
    """
    if p_value < REJECT_BELOW and n_reference >= REJECT_FROM:
        return "rejected"
    return "unusual" if p_value < FLAG_BELOW else "usual"


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


def _draw(rows: Rows, generator: np.random.Generator) -> Rows:
    if len(rows) <= MOST_ROWS:
        return rows
    return np.sort(generator.choice(rows, size=MOST_ROWS, replace=False))
