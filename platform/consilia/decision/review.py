"""What a predictor promises beyond a probability, and when it asks for a person. Source: docs/methods.md section 6."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from consilia.config.frozen import Frozen
from consilia.config.recipe import Build
from consilia.config.records import Probabilities
from consilia.decision.disagreement import Disagreement
from consilia.decision.sets import CalibrationScores, prediction_sets
from consilia.metrics.clustered import Rate
from consilia.metrics.risk_coverage import AbstentionPoint

WITHOUT_SET: dict[Build, str] = {
    "max": "",
    "fast": "the networks were trained on all images, which leaves none to calibrate prediction sets on",
}
Goal = Literal["sensitivity", "specificity"]


class OperatingPoint(Frozen):
    """A class against the rest: an image is called positive if its probability is at least the threshold.

    Bounds are one-sided, 95 % each. Those of the rate that was aimed at hold although the threshold was chosen for them
    (see `ensemble.thresholds`); those of the other rate are as for a threshold that was given, since it was chosen
    on other images, unless patients have images of both kinds.
    """

    name: str  # of the class
    goal: Goal
    target: float
    threshold: float | None  # None: the data cannot support the target
    sensitivity: Rate | None  # None where there is no threshold, or no image to measure it on
    specificity: Rate | None
    positives: int  # images
    positive_patients: int  # with at least one positive image
    negatives: int
    negative_patients: int
    reason: str


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reviewer:
    """What of a bundle judges images beside their probabilities."""

    report: SafetyReport
    sets: CalibrationScores | None  # None: refits have no prediction sets, and that alone sends no image to a person
    without_sets: str  # why there are none
    classes: Sequence[str]  # names in label order

    def judge(
        self, probabilities: Probabilities, calibrated_folds: npt.NDArray[np.float64], disagreement: Disagreement
    ) -> list[Judgement]:
        """Return the prediction set of each image, and why a person should look at it.

        Args:
            probabilities: The ensemble's, calibrated and pooled, (n_images, n_classes).
            calibrated_folds: Those of each fold ensemble, (n_folds, n_images, n_classes).
            disagreement: Of the networks about each image, (n_images,).
        """
        limit = self.report.disagreement
        threshold = None if self.report.abstention is None else self.report.abstention.threshold
        is_answered = answers(threshold, probabilities)
        judgements = []
        for number, (members, review) in enumerate(self._judge_sets(calibrated_folds)):
            if not is_answered[number]:
                review.append(f"confidence {probabilities[number].max():.3f} is below {threshold:.3f}")
            if limit is not None and disagreement[number] > limit:
                review.append("the members disagree more than about 19 of 20 images of the study")
            without = self.without_sets if members is None else ""
            judgements.append(Judgement(prediction_set=members, review=tuple(review), without_set=without))
        return judgements

    def _judge_sets(
        self, calibrated_folds: npt.NDArray[np.float64]
    ) -> Iterator[tuple[tuple[str, ...] | None, list[str]]]:
        """Yield each image's prediction set, and what of it asks for a person."""
        if self.sets is None:
            yield from ((None, []) for _ in range(calibrated_folds.shape[1]))
            return
        found = prediction_sets(self.sets, calibrated_folds)
        for row, conforms in zip(found.members, found.conforms, strict=True):
            members = tuple(name for name, is_in in zip(self.classes, row, strict=True) if is_in)
            if not conforms:
                yield members, ["no class conforms: less typical of each class than nearly all images of the study"]
            else:
                yield members, [f"may be {' or '.join(members)}"] if len(members) > 1 else []


def answers(threshold: float | None, probabilities: Probabilities) -> npt.NDArray[np.bool_]:
    """Say of each image, (n_images,), whether the ensemble answers by itself.

    Args:
        threshold: Of the bundle's abstention point; None: it answers every image.
        probabilities: Calibrated and pooled, (n_images, n_classes).
    """
    if threshold is None:
        return np.ones(len(probabilities), dtype=np.bool_)
    result: npt.NDArray[np.bool_] = probabilities.max(axis=1) >= threshold
    return result
