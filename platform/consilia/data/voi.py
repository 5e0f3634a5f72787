"""Window rules: from the values of an image to bytes of grey.

Everything is computed once for each value that an image can take, then looked up: exact, and as fast for three
windows as for one. Source: DICOM PS3.3, C.11.2.1 (VOI LUT and window functions).
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from consilia.config.reading import PercentileWindow
from consilia.errors import ReaderError

Bytes = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float64]
VoiFunction = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]

_BAND = 1 << 20  # pixels looked up at once: an index takes 8 bytes a pixel


@dataclass(frozen=True, slots=True)
class Levels:
    """An image as positions in the list of the values it can take."""

    values: Values  # (n_levels,)
    image: npt.NDArray[Any]  # whole numbers: a pixel i has the value values[i - first]
    first: int

    def map(self, table: Bytes) -> Bytes:
        """Look the image up in a table, (n_levels,)."""
        flat = self.image.reshape(-1)
        found = np.empty(flat.shape, dtype=np.uint8)
        for start in range(0, len(flat), _BAND):
            found[start : start + _BAND] = table[flat[start : start + _BAND].astype(np.intp) - self.first]
        return found.reshape(self.image.shape)

    def counts(self) -> npt.NDArray[np.int64]:
        """Return how many pixels have each value, (n_levels,)."""
        flat = self.image.reshape(-1)
        total = np.zeros(len(self.values), dtype=np.int64)
        for start in range(0, len(flat), _BAND):
            total += np.bincount(flat[start : start + _BAND].astype(np.intp) - self.first, minlength=len(self.values))
        return total


def find_levels(image: npt.NDArray[Any]) -> Levels:
    """List the values of an image: of small whole numbers all between the smallest and the largest."""
    if np.issubdtype(image.dtype, np.integer) and image.size:
        low, high = int(image.min()), int(image.max())
        if high - low < 1 << 16:
            return Levels(np.arange(low, high + 1, dtype=np.float64), image, low)
    values, positions = np.unique(image, return_inverse=True)
    return Levels(values.astype(np.float64), positions.reshape(image.shape), 0)


def apply_window(values: Values, center: float, width: float, *, function: VoiFunction = "LINEAR", name: str) -> Values:
    """Map values to [0, 1].

    Args:
        values: Modality values, any shape.
        center: Of the window, in the values' unit.
        width: At least 1 for LINEAR, which treats values as whole numbers; above 0 otherwise.
        function: LINEAR and LINEAR_EXACT are straight, SIGMOID is smooth.
        name: What an error calls the image.

    Raises:
        ReaderError: The width is too small, or centre or width is not a number.

    Source: DICOM PS3.3, C.11.2.1.2.1 and C.11.2.1.3.
    """
    smallest = 1.0 if function == "LINEAR" else 0.0
    if not (np.isfinite(center) and np.isfinite(width) and width >= smallest and width > 0):
        raise ReaderError(
            f"{name}: a {function} window must have a width {'of at least 1' if smallest else 'above 0'}, "
            f"but has center {center:g} and width {width:g}."
        )
    if function == "SIGMOID":
        with np.errstate(over="ignore"):  # far below the centre: exp is infinite, and its inverse 0
            return np.asarray(1 / (1 + np.exp(-4 * (values - center) / width)), dtype=np.float64)
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:
        return (values > center).astype(np.float64)
    with np.errstate(over="ignore"):  # a very narrow window ends in 0 and 1 all the same
        return np.clip((values - center) / width + 0.5, 0, 1)


def apply_percentiles(levels: Levels, rule: PercentileWindow, counts: npt.NDArray[np.int64]) -> Values:
    """Map the values of an image to [0, 1], from one of its percentiles to another.

    A percentile is interpolated between pixels as NumPy does. An image whose two percentiles are equal has no
    contrast: all of it becomes 0.

    Args:
        levels: The image, with `values` as the window sees them, in any order.
        rule: The percentiles.
        counts: Pixels that count for each value, (n_levels,); padding does not.
    """
    order = np.argsort(levels.values, kind="stable")
    values, below = levels.values[order], np.cumsum(counts[order])
    n_pixels = int(below[-1])
    if n_pixels == 0:  # nothing but padding
        return np.zeros_like(levels.values)

    def percentile(q: float) -> float:
        rank = q / 100 * (n_pixels - 1)
        low, high = (values[np.searchsorted(below, k, side="right")] for k in (np.floor(rank), np.ceil(rank)))
        return float(low + (high - low) * (rank - np.floor(rank)))

    start, stop = percentile(rule.low), percentile(rule.high)
    if not stop > start:
        return np.zeros_like(levels.values)
    return np.clip((levels.values - start) / (stop - start), 0, 1)


def to_bytes(shares: Values) -> Bytes:
    """Round [0, 1] to 0 ... 255."""
    return np.rint(shares * 255).astype(np.uint8)


def by_percentiles(image: npt.NDArray[Any], rule: PercentileWindow, *, name: str) -> Bytes:
    """Map an image in memory, all its channels together; see `apply_percentiles`.

    Raises:
        ReaderError: A value is infinite or not a number.
    """
    require_finite(image, name)
    levels = find_levels(image)
    return levels.map(to_bytes(apply_percentiles(levels, rule, levels.counts())))


def require_finite(image: npt.NDArray[Any], name: str) -> None:
    """Refuse values that are infinite or not a number.

    Raises:
        ReaderError: The image holds such a value.
    """
    if np.issubdtype(image.dtype, np.floating) and not np.isfinite(image).all():
        raise ReaderError(f"{name}: float pixels must be finite numbers, but some are infinite or nan.")
