"""How far an image lies from those of the training, as one network sees them. Source: docs/methods.md section 7.

Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks, NeurIPS 2018,
for the distance; Bates et al., Testing for Outliers with Conformal p-values, Annals of Statistics 2023, for its rank.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from consilia.decision.ood.inputs import grey_values, layouts

Features = npt.NDArray[np.float32]  # (n_images, n_features)
Views = tuple[Features, ...]  # of the same images
Distances = npt.NDArray[np.float32]  # (n_images,)


MOST_ROWS = 2000  # reference images of either kind: a pass of each through a network is what building costs


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


def views(pooled: Features, pixels: npt.NDArray[np.uint8]) -> Views:
    """Return what images are judged by: the network's features, and the layout, (n_images, 64).

    Pooling over the image forgets where things are, so that an image upside down would differ little; the layout
    keeps it.

    Args:
        pooled: Of `train.networks.layers.logits_and_features`, (n_images, n_pooled).
        pixels: Of the same images, as stored, (n_images, size, size, channels).
    """
    return pooled, layouts(grey_values(pixels)).reshape(len(pixels), -1).astype(np.float32)


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
