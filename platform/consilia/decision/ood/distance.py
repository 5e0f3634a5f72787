"""How far an image lies from the nearest one of the training. Source: docs/methods.md section 7.

Sun et al., Out-of-Distribution Detection with Deep Nearest Neighbors, ICML 2022, for the distance; Bates et al.,
Testing for Outliers with Conformal p-values, Annals of Statistics 2023, for its rank.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from consilia.decision.ood.picture import STARTS, Features

Distances = npt.NDArray[np.float64]  # (n_images,)
Groups = npt.NDArray[np.integer]  # (n_images,) of one patient, say


MOST_ROWS = 2000  # reference images: every new image is compared with each


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PictureReference:
    """What usual images look like."""

    mean: npt.NDArray[np.float32]  # (N_FEATURES,)
    scale: npt.NDArray[np.float32]  # (N_FEATURES,), what each feature's differences are measured in
    images: Features  # of images of the training, standardised by both
    usual: npt.NDArray[np.float64]  # (n_parts,), mean squared distance of such an image from its nearest in each part
    distances: Distances  # ascending; of each of the images from the nearest of another group


class Nearest(NamedTuple):
    """How far images lie from the nearest one of the training."""

    distances: Distances
    parts: npt.NDArray[np.int64]  # (n_images,), the place among PARTS in which each is unlike it above all


def standardised(features: Features, mean: npt.NDArray[np.float32], scale: npt.NDArray[np.float32]) -> Features:
    """Return features of mean 0 and standard deviation 1 in the training."""
    result: Features = (features - mean) / scale
    return result


def find_nearest(features: Features, reference: PictureReference) -> Nearest:
    """Return how far each image, (n_images, N_FEATURES), lies from the nearest of the reference."""
    own = standardised(features, reference.mean, reference.scale)
    nearest = squared_distances(own, reference.images).argmin(axis=1)
    parts = squared_parts(own, reference.images[nearest])
    return Nearest(np.sqrt(parts.sum(axis=1)), (parts / reference.usual).argmax(axis=1))


def squared_distances(one: Features, other: Features) -> Features:
    """Return the squared distance of each pair, (n_one, n_other), to rounding."""
    result: Features = one @ other.T
    result *= -2
    result += np.einsum("ij,ij->i", other, other)
    result += np.einsum("ij,ij->i", one, one)[:, None]
    return result


def squared_parts(one: Features, other: Features) -> npt.NDArray[np.float64]:
    """Return the squared distance of each image from its counterpart in each part, (n_images, n_parts)."""
    squares = (one.astype(np.float64) - other) ** 2
    result: npt.NDArray[np.float64] = np.add.reduceat(squares, STARTS, axis=1)
    return result


def rank_p_values(distances: npt.NDArray[np.floating], reference: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return, for each image, how often a usual one would lie as far away or farther, (n_images,).

    (1 + number of reference distances at least as large) / (n_reference + 1). Over usual images, and over references,
    a value of at most p comes up with a probability of about p at most.

    Args:
        distances: Of the images.
        reference: Those of usual ones, ascending.
    """
    below = np.searchsorted(reference, distances, side="left")
    result: npt.NDArray[np.float64] = (1 + len(reference) - below) / (len(reference) + 1)
    return result
