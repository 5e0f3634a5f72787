"""What a bundle promises beyond a probability is found on the images of the folds. Source: docs/methods.md section 6.

Conformal prediction sets, operating points, the confidence from which on the ensemble answers, and the disagreement
above which a person is asked. `decision` has the objects that apply them, and the sources of the methods.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from consilia.config.recipe import Safety
from consilia.config.records import Probabilities
from consilia.decision.combination import Shares
from consilia.decision.disagreement import mutual_information
from consilia.decision.review import Goal, SafetyReport
from consilia.decision.sets import CalibrationScores, describe_guarantee
from consilia.ensemble.selection import Candidates, Truth
from consilia.ensemble.thresholds import operating_points
from consilia.metrics.patients import patient_weights
from consilia.metrics.risk_coverage import choose_abstention
from consilia.metrics.scores import check_scorable

ALPHA = 0.1  # share of a new patient's images whose set may lack the true class
NO_SETS = (
    "No prediction sets: they compare a new image with what networks said of images that they never saw, and networks "
    "trained on all images leave none out. Scores of the folds' networks promise nothing of these and are not used."
)
QUANTILE = 0.95  # of the disagreement about out-of-fold images; above it an image is flagged


def calibrate_sets(probabilities: Probabilities, truth: Truth, *, alpha: float = ALPHA) -> CalibrationScores:
    """Return the calibration scores of the images of all folds.

    Args:
        probabilities: Each image by the fold ensemble that never saw it, (n_images, n_classes), through the shipped
            calibrator: a new image goes through it too, and both sides must be treated alike.
        truth: About the same images; its folds are 0 ... n_folds - 1.
        alpha: Between 0 and 1; the sets aim at covering 1 - alpha.

    Raises:
        ValueError: Unequal shapes, alpha out of range, or a fold without images.
    """
    check_scorable(probabilities, truth.labels)
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, but got {alpha}")
    n_folds = int(truth.folds.max()) + 1
    if len(np.unique(truth.folds)) != n_folds or truth.folds.min() < 0:
        raise ValueError(f"folds must be 0 ... k-1, each with images, but got {np.unique(truth.folds).tolist()}")
    scores = 1.0 - probabilities[np.arange(len(truth.labels)), truth.labels]
    tables = [np.ones(len(scores), dtype=np.bool_)]
    tables += [truth.labels == number for number in range(probabilities.shape[1])]
    parts = [part for rows in tables for part in _parts(scores[rows], truth.subset(rows), n_folds)]
    return CalibrationScores(
        alpha=alpha,
        n_folds=n_folds,
        patients=np.array([len(np.unique(truth.patients[rows])) for rows in tables], dtype=np.int64),
        starts=np.cumsum([0, *(len(part) for part, _ in parts)], dtype=np.int64),
        scores=np.concatenate([part for part, _ in parts]),
        masses=np.concatenate([masses for _, masses in parts]),
    )


def report_safety(
    safety: Safety,
    sets: CalibrationScores | None,
    cross_fitted: Probabilities,
    truth: Truth,
    classes: Sequence[str],
    *,
    disagreement: float | None,
) -> SafetyReport:
    """Choose operating points and the confidence from which on the ensemble answers.

    Args:
        safety: Of the recipe.
        sets: The calibration of its prediction sets; None of refits, which can give none.
        cross_fitted: Each image by an ensemble that was selected and calibrated without its fold: thresholds must not
            profit from what was fitted on the images that they are measured on.
        truth: About the same images.
        classes: Names in label order.
        disagreement: Of `disagreement_limit`.
    """
    goals: dict[Goal, float | None] = {"sensitivity": safety.sensitivity, "specificity": safety.specificity}
    points = [
        point
        for goal, target in goals.items()
        if target is not None
        for point in operating_points(
            cross_fitted, truth.labels, truth.patients, classes=classes, goal=goal, target=target
        )
    ]
    abstention = None
    if safety.risk is not None:
        abstention = choose_abstention(cross_fitted, truth.labels, truth.patients, target=safety.risk)
    return SafetyReport(
        alpha=None if sets is None else sets.alpha,
        guarantee=(NO_SETS,) if sets is None else describe_guarantee(sets, classes),
        operating_points=tuple(points),
        abstention=abstention,
        disagreement=disagreement,
    )


def disagreement_limit(candidates: Candidates, weights: Shares, patients: npt.NDArray[np.str_]) -> float | None:
    """Return the 95th percentile of the disagreement about out-of-fold images, each patient counting once.

    Only the networks of one fold never saw an image that a fold held out, so this is the disagreement inside
    that fold's ensemble.

    Args:
        candidates: Out-of-fold probabilities before calibration.
        weights: Of the candidates, those of their combination; those of weight 0 are not members.
        patients: Of each image, (n_images,).

    Returns:
        The limit; None with a single member: its networks of other folds were trained on the image, so what they would
        say of a new one is not known.
    """
    chosen = weights > 0
    if chosen.sum() == 1:
        return None
    values = mutual_information(candidates[chosen], weights[chosen])
    return float(np.quantile(values, QUANTILE, weights=patient_weights(patients), method="inverted_cdf"))


def _parts(
    scores: npt.NDArray[np.float64], truth: Truth, n_folds: int
) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Return sorted scores and running weights of each fold."""
    weights = patient_weights(truth.patients)
    parts = []
    for fold in range(n_folds):
        rows = np.flatnonzero(truth.folds == fold)
        rows = rows[np.argsort(scores[rows], kind="stable")]
        parts.append((scores[rows], np.cumsum(weights[rows])))
    return parts
