"""What a predictor promises beyond a probability, and when it asks for a person. Source: docs/methods.md section 6."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from consilia.config.frozen import Frozen
from consilia.config.recipe import Build, Safety
from consilia.config.records import Probabilities
from consilia.decision.calibrators import AnyCalibrator, calibrate
from consilia.decision.conformal import CalibrationScores, calibrate_sets, conforming_classes, describe_guarantee
from consilia.decision.disagreement import Disagreement
from consilia.decision.thresholds import Goal, OperatingPoint, operating_points
from consilia.ensemble.selection import Truth
from consilia.metrics.risk_coverage import AbstentionPoint, choose_abstention

NO_SETS = (
    "No prediction sets: they compare a new image with what networks said of images that they never saw, and networks "
    "trained on all images leave none out. Scores of the folds' networks promise nothing of these and are not used."
)
WITHOUT_SET: dict[Build, str] = {
    "max": "",
    "fast": "the networks were trained on all images, which leaves none to calibrate prediction sets on",
}


class SafetyReport(Frozen):
    """What of it stands in `ensemble.json`; the calibration scores of the sets are a file of their own."""

    alpha: float | None  # the sets aim at covering 1 - alpha; None: there are none
    guarantee: tuple[str, ...]  # sentences: what the sets promise, and of which classes nothing
    operating_points: tuple[OperatingPoint, ...]
    abstention: AbstentionPoint | None  # None: the recipe asks for none
    disagreement: float | None  # nats, above which members disagree; None: a single member


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What is said of one image beside its probabilities."""

    prediction_set: tuple[str, ...] | None
    review: tuple[str, ...]  # why a person should look at it; empty: nothing speaks for it
    without_set: str = ""  # why there is no prediction set


def unjudged_part(n_members: int, n_all: int) -> Judgement:
    """Return what is said of an image that only some members of an ensemble were asked about."""
    reason = f"only {n_members} of {n_all} members were asked: prediction sets and limits hold for all of them"
    return Judgement(prediction_set=None, review=(reason,), without_set=reason)


def calibrated_sets(
    safety: Safety, probabilities: Probabilities, calibrator: AnyCalibrator, truth: Truth
) -> CalibrationScores:
    """Return the calibration scores of the prediction sets.

    Args:
        safety: Of the recipe.
        probabilities: Uncalibrated, each image by the shipped members' networks that never saw it.
        calibrator: The shipped one: a new image goes through it too, and both sides must be treated alike.
        truth: About the same images.
    """
    return calibrate_sets(calibrate(calibrator, probabilities), truth, alpha=safety.alpha)


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


def judge(
    report: SafetyReport,
    sets: CalibrationScores | None,
    probabilities: Probabilities,
    calibrated_folds: npt.NDArray[np.float64],
    disagreement: Disagreement,
    classes: Sequence[str],
) -> list[Judgement]:
    """Return the prediction set of each image, and why a person should look at it.

    Args:
        report: Of the bundle.
        sets: Of the bundle; None of refits: then there is no prediction set, and an image is not looked at for it.
        probabilities: The ensemble's, calibrated and pooled, (n_images, n_classes).
        calibrated_folds: Those of each fold ensemble, (n_folds, n_images, n_classes).
        disagreement: Of the networks about each image, (n_images,).
        classes: Names in label order.
    """
    least = report.abstention.threshold if report.abstention is not None else None
    judgements = []
    for row, found, apart in zip(
        probabilities, _judge_sets(sets, calibrated_folds, classes), disagreement, strict=True
    ):
        review = list(found.review)
        if least is not None and row.max() < least:
            review.append(f"confidence {row.max():.3f} is below {least:.3f}")
        if report.disagreement is not None and apart > report.disagreement:
            review.append("the members disagree more than about 19 of 20 images of the study")
        judgements.append(replace(found, review=tuple(review)))
    return judgements


def _judge_sets(
    sets: CalibrationScores | None, calibrated_folds: npt.NDArray[np.float64], classes: Sequence[str]
) -> list[Judgement]:
    """Return each image's prediction set, and what of it asks for a person."""
    if sets is None:
        return [Judgement(prediction_set=None, review=(), without_set=WITHOUT_SET["fast"])] * calibrated_folds.shape[1]
    judgements = []
    for found in conforming_classes(sets, calibrated_folds):
        members = tuple(name for name, is_in in zip(classes, found, strict=True) if is_in)
        review: tuple[str, ...] = ()
        if not members:
            review = ("no class conforms: less typical of each class than nearly all images of the study",)
        elif len(members) > 1:
            review = (f"may be {' or '.join(members)}",)
        judgements.append(Judgement(prediction_set=members or tuple(classes), review=review))
    return judgements
