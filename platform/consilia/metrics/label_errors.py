"""Labels that are probably wrong, by confident learning. Source: docs/methods.md section 9.

Northcutt, Jiang and Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR 2021, sections 3 and 4.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from consilia.config.records import Labels, Probabilities
from consilia.metrics.scores import check_scorable

_ROUNDING = 1e-9  # the mean of equal numbers may lie above each of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspects:
    """Images whose label is doubted, the most doubtful first."""

    rows: npt.NDArray[np.int64]  # (n,) of the probabilities
    suggested: npt.NDArray[np.int64]  # (n,) class that the image looks like
    margins: npt.NDArray[np.float64]  # (n,) probability of the label minus that of the suggested class, ascending


def suspect_labels(probabilities: Probabilities, labels: Labels) -> Suspects:
    """Return the images that confidently look like another class than their label says.

    An image looks confidently like class k if its probability of k is at least the mean probability of k among the
    images that are labelled k; of several such classes the most probable counts. So a class that the model finds hard
    has a low bar, and an over-confident model a high one: what counts is an image's place among those of the class.

    Args:
        probabilities: Calibrated, each image by networks that never saw it, (n_images, n_classes).
        labels: As given, (n_images,).
    """
    check_scorable(probabilities, labels)
    n_classes = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=n_classes)
    sums = np.bincount(labels, own, minlength=n_classes)
    bars = np.divide(
        sums, counts, out=np.full(n_classes, np.inf), where=counts > 0
    )  # no image is sent to an empty class
    confident = np.where(probabilities >= bars - _ROUNDING, probabilities, -np.inf)
    looks = confident.argmax(axis=1)
    rows = np.flatnonzero(np.isfinite(confident.max(axis=1)) & (looks != labels))
    margins = own[rows] - probabilities[rows, looks[rows]]
    order = np.argsort(margins, kind="stable")
    return Suspects(rows=rows[order], suggested=looks[rows][order], margins=margins[order])
