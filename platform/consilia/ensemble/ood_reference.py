"""What usual images look like, found on those of the training. Source: docs/methods.md section 7.

`decision.ood` measures images against it.
"""

import numpy as np
import numpy.typing as npt

from consilia.decision.ood.distance import Groups, PictureReference, squared_distances, squared_parts, standardised
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
from consilia.decision.ood.picture import Features

_LEAST_SPREAD = 0.3  # of the median standard deviation: what hardly varied in training would outweigh all else
_TAIL = 0.005  # share of the training images on either side that a limit may cut off
_BEYOND = 0.25  # limits lie this much farther from the median than that share's quantile does


def fit_pictures(features: Features, groups: Groups) -> PictureReference:
    """Describe usual images by their features, and tell how far a new one lies from the nearest.

    Each image is compared with those of all other groups, as a new patient's will be with all: none with itself, nor
    with another of its patient, which would be nearer than any new one.

    Args:
        features: Of images of the training, (n_images, N_FEATURES).
        groups: That each belongs to, (n_images,).

    Raises:
        ValueError: There is one group alone, or no feature differs between images.
    """
    if len(np.unique(groups)) < 2:
        raise ValueError("images of at least 2 patients must be there to compare with each other")
    mean, spread = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    if not spread.any():
        raise ValueError("images must differ from each other: they are damaged")
    scale = np.maximum(spread, max(_LEAST_SPREAD * np.median(spread[spread > 0]), 1e-6))
    exact = mean.astype(np.float32), scale.astype(np.float32)
    images = standardised(features, *exact)
    squares = squared_distances(images, images)
    squares[groups[:, None] == groups] = np.inf
    parts = squared_parts(images, images[squares.argmin(axis=1)])
    return PictureReference(
        mean=exact[0],
        scale=exact[1],
        images=images[np.lexsort(images.T)],  # their order would tell which belong together
        usual=np.maximum(parts.mean(axis=0), np.finfo(np.float32).tiny),
        distances=np.sort(np.sqrt(parts.sum(axis=1))),
    )


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


def _limits(rule: Rule, values: npt.NDArray[np.float64]) -> tuple[float, float]:
    if np.isnan(values).any():
        return -np.inf, np.inf
    low, middle, high = np.quantile(values, [_TAIL, 0.5, 1 - _TAIL])
    least = low - max(_BEYOND * (middle - low), rule.margin)
    most = high + max(_BEYOND * (high - middle), rule.margin)
    return float(least) if rule.below else -np.inf, float(most) if rule.above else np.inf
