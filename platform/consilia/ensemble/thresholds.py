"""The threshold at which a class is found, or spared, as often as asked for. Source: docs/methods.md section 6."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from consilia.config.records import Labels, Probabilities
from consilia.decision.review import Goal, OperatingPoint
from consilia.metrics.clustered import (
    CONFIDENCE,
    clustered_rate,
    effective_size,
    full_trials,
    sums_before,
    upper_bound,
)
from consilia.metrics.patients import patient_numbers
from consilia.metrics.scores import check_scorable


def operating_points(
    probabilities: Probabilities,
    labels: Labels,
    patients: npt.NDArray[np.str_],
    *,
    classes: Sequence[str],
    goal: Goal,
    target: float,
) -> tuple[OperatingPoint, ...]:
    """Return the operating point of each class against the rest, in class order.

    Args:
        probabilities: Calibrated, (n_images, n_classes), of the predictor that the thresholds are for.
        labels: True class numbers, (n_images,).
        patients: Of each image, (n_images,).
        classes: Names in label order.
        goal: As of `choose_threshold`.
        target: As of `choose_threshold`.
    """
    check_scorable(probabilities, labels)
    return tuple(
        choose_threshold(probabilities[:, number], labels == number, patients, name=name, goal=goal, target=target)
        for number, name in enumerate(classes)
    )


def choose_threshold(
    scores: npt.NDArray[np.float64],
    positive: npt.NDArray[np.bool_],
    patients: npt.NDArray[np.str_],
    *,
    name: str,
    goal: Goal,
    target: float,
) -> OperatingPoint:
    """Return the largest threshold whose sensitivity, or the smallest whose specificity, reaches the target.

    It reaches it if its lower 95 % bound does, and that of every threshold on its safe side. Thresholds are so
    tested in an order that was fixed beforehand, from the safe end, up to the first that fails: the confidence of the
    last one that passed is still that of one bound (fixed-sequence testing), whatever the number of images.

    What the bound covers: the sensitivity over new positive patients like these, a random positive image of each. What
    it does not: images of another scanner, hospital or share of severe cases; another predictor than the one that gave
    `scores`, such as the average over folds when they are of single folds; that one class was picked because its point
    looked best; and networks that were chosen on these same images. The point estimate and the upper bound are of
    a threshold that was chosen on these images, and flatter by about one patient in all.

    Args:
        scores: Probability of the class, (n_images,).
        positive: Whether the image is of the class, (n_images,).
        patients: Of each image, (n_images,).
        name: Of the class.
        goal: Which rate must reach the target.
        target: Between 0 and 1.

    Raises:
        ValueError: Unequal lengths, scores that are not finite, or a target out of range.

    Source: docs/methods.md section 6.
    """
    if not 0 < target < 1:
        raise ValueError(f"a target must lie between 0 and 1, but got {target}")
    if not len(scores) == len(positive) == len(patients) or not np.isfinite(scores).all():
        raise ValueError("every image must have a finite score, a label and a patient")
    aimed = positive if goal == "sensitivity" else ~positive
    n_patients, least = len(np.unique(patients[aimed])), least_patients(target)
    threshold = None
    if n_patients < least:
        reason = (
            f"No threshold for {name}: a {goal} of {target:g} needs at least {least} patients with "
            f"{'positive' if goal == 'sensitivity' else 'negative'} images even if not one image is called wrongly, "
            f"but there are {n_patients}."
        )
    else:
        threshold = _last_safe(scores[aimed], patients[aimed], goal, target)
        reason = f"With 95 % confidence, {name} has a {goal} of at least {target:g} at threshold {threshold:.4g}."
    return OperatingPoint(
        name=name,
        goal=goal,
        target=target,
        threshold=threshold,
        sensitivity=None if threshold is None else clustered_rate(scores[positive] >= threshold, patients[positive]),
        specificity=None if threshold is None else clustered_rate(scores[~positive] < threshold, patients[~positive]),
        positives=int(positive.sum()),
        positive_patients=len(np.unique(patients[positive])),
        negatives=int((~positive).sum()),
        negative_patients=len(np.unique(patients[~positive])),
        reason=reason,
    )


def least_patients(target: float) -> int:
    """Return the least number of patients that can show a rate of `target`: 59 for 0.95.

    If n of n are right, the lower bound is 0.05 ** (1 / n).
    """
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(target))


def _last_safe(scores: npt.NDArray[np.float64], patients: npt.NDArray[np.str_], goal: Goal, target: float) -> float:
    """Return the threshold farthest from the safe end up to which every lower bound reaches the target.

    For the specificity everything is mirrored: a negative image is called wrongly if it is above its threshold.
    """
    rising = scores if goal == "sensitivity" else -scores
    candidates, misses = _upper_bounds_of_misses(rising, patients)
    reached = 1 - misses >= target
    last = float(candidates[int(np.argmin(reached)) - 1 if not reached.all() else -1])
    # Called negative is below the threshold, so the least threshold with this negative is just above it.
    return last if goal == "sensitivity" else float(np.nextafter(-last, np.inf))


def _upper_bounds_of_misses(
    scores: npt.NDArray[np.float64], patients: npt.NDArray[np.str_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the distinct scores, ascending, and the upper bound of the share of images below each."""
    order = np.argsort(scores, kind="stable")
    numbers, _ = patient_numbers(patients)
    counts = np.bincount(numbers)
    weights = (1.0 / counts[numbers])[order]
    before = sums_before(weights, numbers[order])  # share of the patient's images that were missed already
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    events = np.concatenate([[0.0], np.cumsum(weights)])[starts]
    squares = np.concatenate([[0.0], np.cumsum(2 * before * weights + weights**2)])[starts]
    sums = full_trials(events, squares, len(counts))
    return scores[order][starts], upper_bound(sums.rate, effective_size(sums))
