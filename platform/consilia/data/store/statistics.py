"""Intensity statistics of chosen images, from the index alone."""

from dataclasses import dataclass

import numpy as np

from consilia.config.records import Rows
from consilia.data.store.image_store import ImageStore
from consilia.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Intensity:
    """Mean and standard deviation of pixel / 255, over all channels."""

    mean: float
    std: float


def intensity(store: ImageStore, rows: Rows) -> Intensity:
    """Return the mean and standard deviation of the pixels of `rows` and of no other image.

    All images have one size, so the moments of the set are the means of their moments: no pixel is read.

    Args:
        store: The data set.
        rows: Row numbers, (m,); those that a model is trained on.

    Raises:
        DataError: No rows, or every pixel has one and the same value.
    """
    if len(rows) == 0:
        raise DataError(f"{store.folder}: intensity statistics need at least one image, but got none.")
    chosen = store.index.iloc[rows]
    mean = float(chosen["mean"].mean())
    variance = float(chosen["mean_square"].mean()) - mean**2
    if variance < 1e-10:  # below the square of a 65535th of the range: rounding, not contrast
        raise DataError(f"{store.folder}: all {len(rows)} images hold one and the same grey, {mean:.3f} of white.")
    return Intensity(mean=mean, std=float(np.sqrt(variance)))
