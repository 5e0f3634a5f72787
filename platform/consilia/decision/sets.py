"""Prediction sets: the classes that an image may have. Source: docs/methods.md section 6.

CV+ for classification: Romano, Sesia and Candès, NeurIPS 2020, section 2.3; Barber et al., Predictive Inference with
the Jackknife+, Annals of Statistics 2021. Patients as exchangeable groups of images: Lee, Barber and Willett,
Distribution-Free Inference with Hierarchical Data, 2023. Classes on their own: Vovk, ACML 2012.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from consilia.errors import BundleError

_ROUNDING = 1e-9  # sums of 1/m are compared as the fractions that they stand for, in whatever order they were added

Members = npt.NDArray[np.bool_]  # (n_images, n_classes), the classes in each image's set


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CalibrationScores:
    """What prediction sets need of the calibration images: their scores 1 - p of the true class, and no names.

    Table 0 holds all images, table 1 + c those of class c. Each table has one part a fold, which lie one after the
    other in `scores` and `masses`: table t and fold f from `starts[t * n_folds + f]` to the next start.
    """

    alpha: float
    n_folds: int
    patients: npt.NDArray[np.int64]  # (1 + n_classes,) with an image in the table
    starts: npt.NDArray[np.int64]  # ((1 + n_classes) * n_folds + 1,)
    scores: npt.NDArray[np.float64]  # (n,) ascending within a part
    masses: npt.NDArray[np.float64]  # (n,) running sum within a part of 1 / (images of the patient in the table)

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.patients) - 1

    @property
    def has_guarantee(self) -> npt.NDArray[np.bool_]:
        """Say of each class, (n_classes,), whether it is judged by its own images and so has its own coverage."""
        result: npt.NDArray[np.bool_] = self.patients[1:] >= least_patients(self.alpha)
        return result


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PredictionSets:
    """The sets of some images, as they are shipped."""

    members: Members  # (n_images, n_classes)
    conforms: npt.NDArray[np.bool_]  # (n_images,) whether any class does; where none does, the set holds all


def least_patients(alpha: float) -> int:
    """Return the least number P of calibration patients with which a class can ever be left out of a set.

    All P must then lie below it, and P < (1 - alpha)(P + 1) until P reaches 1 / alpha - 1: 9 for alpha = 0.1.
    """
    return max(1, math.ceil(1 / alpha - 1 - _ROUNDING))


def prediction_sets(calibration: CalibrationScores, fold_probabilities: npt.NDArray[np.float64]) -> PredictionSets:
    """Return the set of each image.

    An image of which no class conforms gets *all* classes. The truth is one of them, so an empty set can only mean
    that the image is unlike the calibration images, or that the ensemble is less sure of it than of most: it is
    among those to refer. The most probable class alone would look like certainty, which a set of one is read as, just
    where there is least of it. Adding classes never lowers coverage. Sets of one thus hold a class that conforms.

    Args:
        calibration: Of the same fold ensembles.
        fold_probabilities: Calibrated, by each fold ensemble, (n_folds, n_images, n_classes); not pooled.

    Raises:
        ValueError: As of `conforming_classes`.

    Source: docs/methods.md section 6, for what is guaranteed.
    """
    members = conforming_classes(calibration, fold_probabilities)
    conforms: npt.NDArray[np.bool_] = np.any(members, axis=1)
    return PredictionSets(members=members | ~conforms[:, None], conforms=conforms)


def conforming_classes(calibration: CalibrationScores, fold_probabilities: npt.NDArray[np.float64]) -> Members:
    """Return the classes that conform; for some images that may be none.

    A class conforms if the weight of the calibration scores below the image's is less than (1 - alpha)(P + 1), each
    calibration image being compared under the fold that held it out. Equal scores do not count as below, which keeps
    the class: in the proof every pair of images then has at most one winner, which is all it needs.

    Raises:
        ValueError: Another number of folds or classes than the calibration's, or NaN.
    """
    expected = (calibration.n_folds, calibration.n_classes)
    if fold_probabilities.ndim != 3 or (fold_probabilities.shape[0], fold_probabilities.shape[2]) != expected:
        raise ValueError(
            f"fold probabilities must be (n_folds, n_images, n_classes) with {expected[0]} folds and {expected[1]} "
            f"classes, but got {fold_probabilities.shape}"
        )
    if not np.isfinite(fold_probabilities).all():
        raise ValueError("probabilities must be finite, but some are NaN or infinite")
    scores = 1.0 - fold_probabilities
    members = np.empty(scores.shape[1:], dtype=np.bool_)
    for number, own in enumerate(calibration.has_guarantee):
        table = 1 + number if own else 0
        limit = (1 - calibration.alpha) * (calibration.patients[table] + 1)
        members[:, number] = _mass_below(calibration, table, scores[:, :, number]) < limit * (1 - _ROUNDING)
    return members


def describe_guarantee(calibration: CalibrationScores, classes: Sequence[str]) -> tuple[str, ...]:
    """Say in sentences what the sets cover, and of which classes they promise nothing."""
    alpha, patients = calibration.alpha, calibration.patients
    least, percent = least_patients(alpha), f"{100 * (1 - alpha):g} %"
    if patients[0] < least:
        return (
            f"No guarantee: sets that aim at {percent} need at least {least} calibration patients, but there are "
            f"{patients[0]}, so every set holds every class.",
        )
    worst = f"{100 * max(0.0, 1 - 2 * alpha):g} %"
    sentences = [
        f"Prediction sets aim at holding the true class of {percent} of the images of new patients like those of the "
        f"study; what is proven for cross-validated sets is close to {worst}."
    ]
    for name, own, count in zip(classes, calibration.has_guarantee, patients[1:], strict=True):
        if not own:
            sentences.append(
                f"No class guarantee for {name}: {count} calibration patients have it, and at least {least} are "
                f"needed for {percent}; it is judged by the images of all classes together."
            )
    return tuple(sentences)


def to_arrays(calibration: CalibrationScores) -> dict[str, npt.NDArray[Any]]:
    """Return the calibration as plain arrays by name, for `np.savez`."""
    return {
        "alpha": np.array(calibration.alpha),
        "n_folds": np.array(calibration.n_folds),
        "patients": calibration.patients,
        "starts": calibration.starts,
        "scores": calibration.scores,
        "masses": calibration.masses,
    }


def from_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> CalibrationScores:
    """Return the calibration that `to_arrays` took apart.

    Raises:
        BundleError: An array is missing or does not fit the others.
    """
    try:
        calibration = CalibrationScores(
            alpha=float(arrays["alpha"]),
            n_folds=int(arrays["n_folds"]),
            patients=arrays["patients"].astype(np.int64),
            starts=arrays["starts"].astype(np.int64),
            scores=arrays["scores"].astype(np.float64),
            masses=arrays["masses"].astype(np.float64),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"The calibration of prediction sets cannot be read: {error}") from error
    n, starts = len(calibration.scores), calibration.starts
    expected = len(calibration.patients) * calibration.n_folds + 1
    fits = len(starts) == expected and starts[0] == 0 and starts[-1] == n == len(calibration.masses)
    if not fits or (np.diff(starts) < 0).any() or not 0 < calibration.alpha < 1:
        raise BundleError("The calibration of prediction sets is damaged: its arrays do not fit together.")
    return calibration


def _mass_below(calibration: CalibrationScores, table: int, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the weight of the table's images below each image, (n_images,), by `scores` (n_folds, n_images)."""
    total = np.zeros(scores.shape[1])
    for fold in range(calibration.n_folds):
        place = table * calibration.n_folds + fold
        part = slice(calibration.starts[place], calibration.starts[place + 1])
        masses = np.concatenate([[0.0], calibration.masses[part]])
        total += masses[np.searchsorted(calibration.scores[part], scores[fold], side="left")]
    return total
