"""Area under the ROC curve inside folds, with an interval that knows patients.

Pooling folds would compare scores of different models, which puts chance below a half; so only images of one fold
are compared. Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988); for patients with several images
Obuchowski, Biometrics 53 (1997).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from consilia.metrics.estimates import Estimate

Scores = npt.NDArray[np.float64]  # (m,) higher for the class
Numbers = npt.NDArray[np.int64]  # (m,)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Area:
    """The area for one class against the rest."""

    value: float
    influence: Scores  # (m,) of each image on the value; they sum to 0
    n_groups: int  # of the class or of the rest, whichever has fewer


def area_in_folds(scores: Scores, positive: npt.NDArray[np.bool_], folds: Numbers, groups: Numbers) -> Area | None:
    """Return the share of pairs in the right order, ties a half, over positive and negative images of one fold.

    Args:
        scores: Of the class, (m,).
        positive: Whether the image is of the class, (m,).
        folds: Fold of each image, (m,).
        groups: Patient of each image, (m,).

    Returns:
        None where no fold holds both, or where the class or the rest is of a single group.
    """
    n_groups = min(len(np.unique(groups[positive])), len(np.unique(groups[~positive])))
    parts = [rows for rows in (folds == each for each in np.unique(folds)) if 0 < positive[rows].sum() < rows.sum()]
    n_positive = sum(int(positive[rows].sum()) for rows in parts)
    if n_groups < 2 or n_positive == 0:
        return None
    influence = np.zeros(len(scores))
    areas = []
    for rows in parts:
        wins = _wins(scores[rows], positive[rows])
        share = positive[rows].sum() / n_positive
        area = float(wins[positive[rows]].mean())
        areas.append((share, area))
        sizes = np.where(positive[rows], positive[rows].sum(), (~positive[rows]).sum())
        influence[rows] = share * (wins - area) / sizes
    value = sum(share * area for share, area in areas)
    for rows, (_, area) in zip(parts, areas, strict=True):  # folds of other areas are part of the error
        influence[rows] += np.where(positive[rows], (area - value) / n_positive, 0.0)
    return Area(value=value, influence=influence, n_groups=n_groups)


def mean_interval(areas: list[Area], groups: Numbers, *, chosen_among: int = 1) -> Estimate:
    """Return the mean of the areas with its 95 % interval over groups.

    Args:
        areas: Of the same images; one or more.
        groups: Patient of each image, (m,).
        chosen_among: How many areas the best was chosen from; the interval is widened as Bonferroni does.
    """
    value = float(np.mean([each.value for each in areas]))
    influence = np.mean([each.influence for each in areas], axis=0)
    fewest = min(each.n_groups for each in areas)
    by_group = np.bincount(np.unique(groups, return_inverse=True)[1], influence)
    error = np.sqrt((by_group**2).sum() * fewest / (fewest - 1))
    reach = float(stdtrit(fewest - 1, 1 - 0.025 / chosen_among) * error)
    return Estimate(value=value, low=max(0.0, value - reach), high=min(1.0, value + reach))


def _wins(scores: Scores, positive: npt.NDArray[np.bool_]) -> Scores:
    """Return for each image the share of images of the other kind that it is in the right order with."""
    places = np.unique(scores, return_inverse=True)[1]
    positives, negatives = (np.bincount(places, kind) for kind in (positive, ~positive))
    below = np.cumsum(negatives) - negatives / 2
    above = positives.sum() - np.cumsum(positives) + positives / 2
    wins: Scores = np.where(positive, below[places] / negatives.sum(), above[places] / positives.sum())
    return wins
