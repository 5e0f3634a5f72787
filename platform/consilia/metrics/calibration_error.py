"""How far confidence and accuracy lie apart, without what chance adds. Source: docs/methods.md section 8.

The gaps of a bin's images are multiplied in pairs of different patients: chance leaves each gap alone on its side, so
the products of a calibrated predictor average 0, whereas the gap of a bin as a whole is never 0. Kumar, Liang and Ma,
Verified Uncertainty Calibration, NeurIPS 2019, section 4; Sun, Chaudhari, Barnett and Dobriban, A Confidence Interval
for the l2 Expected Calibration Error, arXiv:2408.08998.
"""

import numpy as np
import numpy.typing as npt

MOST_BINS = 15
FEWEST_IMAGES = 20  # of a bin

Numbers = npt.NDArray[np.float64]


def n_bins(n_images: int, *, most: int = MOST_BINS) -> int:
    """Return into how many bins of equal weight so many images go: at least 20 a bin, at least one bin."""
    return max(1, min(most, n_images // FEWEST_IMAGES))


def squared_calibration_error(
    confidence: Numbers, correct: Numbers, weightings: Numbers, patients: npt.NDArray[np.int64] | None = None
) -> Numbers:
    """Return the mean squared gap of bins of equal weight, (n_weightings,), estimated without bias: it may be negative.

    In a bin, it is the mean of gap times gap over pairs of images of different patients, each pair weighing the product
    of its images' weights. So a bootstrap draw, which weighs, does not pair an image with a copy of itself, and draws
    lie around the estimate. Images of equal confidence share a bin, the one of their middle, so the order of images is
    irrelevant.

    Args:
        confidence: Of the most probable class, (n_images,).
        correct: 1.0 where that class is the true one, else 0.0, (n_images,).
        weightings: Not negative, (n_weightings, n_images).
        patients: Number of each image's patient, (n_images,); None: each image is one of its own.

    Returns:
        NaN where no bin has two patients.
    """
    order = np.lexsort((confidence, np.arange(len(confidence)) if patients is None else patients))
    bins, count = _bins(confidence, weightings)[:, order], n_bins(len(confidence))
    places = (bins + np.arange(len(weightings))[:, None] * count).ravel()  # of each image among all bins of all rows
    names = np.broadcast_to(order if patients is None else patients[order], bins.shape).ravel()
    # A patient's images are sorted by confidence, so those in one bin stand together.
    starts = np.flatnonzero((np.diff(places, prepend=-1) != 0) | (np.diff(names, prepend=-1) != 0))
    weights = np.add.reduceat(weightings[:, order].ravel(), starts)
    gaps = np.add.reduceat((weightings * (confidence - correct))[:, order].ravel(), starts)

    def by_bin(values: Numbers) -> Numbers:
        sums = np.bincount(places[starts], values, minlength=len(weightings) * count)
        return sums.astype(np.float64).reshape(len(weightings), count)

    masses = by_bin(weights)
    pairs = masses**2 - by_bin(weights**2)
    defined = pairs > 1e-9 * masses**2
    squares = np.divide(by_bin(gaps) ** 2 - by_bin(gaps**2), pairs, out=np.zeros_like(pairs), where=defined)
    total = (masses * defined).sum(axis=1)
    result: Numbers = np.divide((masses * squares).sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0)
    return result


def _bins(confidence: Numbers, weightings: Numbers) -> npt.NDArray[np.int64]:
    """Return the bin of each image under each weighting, (n_weightings, n_images)."""
    order = np.argsort(confidence, kind="stable")
    is_first = np.diff(confidence[order], prepend=-np.inf) > 0  # of each run of equal confidences
    run = np.empty(len(order), dtype=np.int64)
    run[order] = np.cumsum(is_first) - 1
    masses = np.add.reduceat(weightings[:, order], np.flatnonzero(is_first), axis=1)
    middle = (np.cumsum(masses, axis=1) - masses / 2) / masses.sum(axis=1, keepdims=True)
    count = n_bins(len(confidence))
    result: npt.NDArray[np.int64] = np.minimum((middle * count).astype(np.int64), count - 1)[:, run]
    return result
