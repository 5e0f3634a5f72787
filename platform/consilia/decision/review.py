"""What a predictor promises beyond a probability, and when it asks for a person. Source: docs/methods.md section 6."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from consilia.config.frozen import Frozen
from consilia.config.recipe import Build
from consilia.config.records import OodVerdict, Prediction, Probabilities
from consilia.decision.disagreement import Disagreement
from consilia.decision.ood.inputs import InputReference, Measures, breaks_rules, find_broken_rules
from consilia.decision.ood.picture import PARTS
from consilia.decision.ood.verdict import judge, rank_states, reasons
from consilia.decision.sets import CalibrationScores, Members, prediction_sets
from consilia.metrics.clustered import Rate
from consilia.metrics.risk_coverage import AbstentionPoint

WITHOUT_SET: dict[Build, str] = {
    "max": "",
    "fast": "the networks were trained on all images, which leaves none to calibrate prediction sets on",
}
Goal = Literal["sensitivity", "specificity"]
Flags = npt.NDArray[np.bool_]  # (n_images,)


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Unusual:
    """How images compare with those of the training, one row an image."""

    p_values: npt.NDArray[np.float64]  # (n_images,)
    parts: npt.NDArray[np.int64]  # (n_images,), the place among `decision.ood.picture.PARTS` that is unlike above all
    measures: Measures  # that the rules on the input look at


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UsualImages:
    """What images are compared with."""

    inputs: InputReference
    n_distances: int  # that a p-value is a rank among


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Columns:
    """The numbers that images are judged by, one row an image; None: the ensemble does not judge by them."""

    probabilities: Probabilities  # calibrated and pooled
    answered: Flags  # the confidence reaches the bundle's
    disagree: Flags  # the members do
    members: Members | None  # of the prediction set
    conforms: Flags | None
    p_values: npt.NDArray[np.float64] | None
    parts: npt.NDArray[np.int64] | None
    measures: Measures | None

    def take(self, rows: slice) -> "Columns":
        """Return some of the rows."""
        return join([self], rows)


def join(parts: Sequence[Columns], rows: slice = slice(None)) -> Columns:
    """Return the columns of all parts, which are of one ensemble, one below the other; or some of their rows."""

    def column(name: str) -> Any:
        found = [getattr(part, name) for part in parts]
        return None if found[0] is None else np.concatenate(found)[rows]

    return Columns(**{field.name: column(field.name) for field in fields(Columns)})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reviewer:
    """What of a bundle judges images beside their probabilities."""

    report: SafetyReport
    sets: CalibrationScores | None  # None: refits have no prediction sets, and that alone sends no image to a person
    without_sets: str  # why there are none
    classes: Sequence[str]  # names in label order
    usual: UsualImages | None = None  # None: there is nothing to compare images with
    remark: str = ""  # why a person should look at every image

    def judge(
        self,
        probabilities: Probabilities,
        calibrated_folds: npt.NDArray[np.float64],
        disagreement: Disagreement,
        unusual: Unusual | None = None,
    ) -> "Judgements":
        """Return the prediction of each image, with its prediction set and why a person should look at it.

        Args:
            probabilities: The ensemble's, calibrated and pooled, (n_images, n_classes).
            calibrated_folds: Those of each fold ensemble, (n_folds, n_images, n_classes).
            disagreement: Of the networks about each image, (n_images,).
            unusual: Of the images; None: they were not compared.
        """
        abstention, limit = self.report.abstention, self.report.disagreement
        found = None if self.sets is None else prediction_sets(self.sets, calibrated_folds)
        columns = Columns(
            probabilities=probabilities,
            answered=answers(None if abstention is None else abstention.threshold, probabilities),
            disagree=np.zeros(len(probabilities), dtype=np.bool_) if limit is None else disagreement > limit,
            members=None if found is None else found.members,
            conforms=None if found is None else found.conforms,
            p_values=None if unusual is None else unusual.p_values,
            parts=None if unusual is None else unusual.parts,
            measures=None if unusual is None else unusual.measures,
        )
        return Judgements(columns, self)


def review_part(report: SafetyReport, classes: Sequence[str], *, n_members: int, n_all: int) -> Reviewer:
    """Return what judges images that only some members of an ensemble are asked about: each needs a person."""
    reason = f"only {n_members} of {n_all} members were asked: prediction sets and limits hold for all of them"
    unlimited = report.model_copy(update={"abstention": None, "disagreement": None})
    return Reviewer(report=unlimited, sets=None, without_sets=reason, classes=classes, remark=reason)


class Judgements(Sequence[Prediction]):
    """Predictions of images as arrays; words are found for an image, and a `Prediction` made, when it is asked for."""

    def __init__(self, columns: Columns, reviewer: Reviewer) -> None:
        self.columns, self.reviewer = columns, reviewer

    def __len__(self) -> int:
        return len(self.columns.probabilities)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice) -> "Judgements": ...
    def __getitem__(self, index: "int | slice") -> "Prediction | Judgements":
        if isinstance(index, slice):
            return Judgements(self.columns.take(index), self.reviewer)
        row, classes = self.columns.probabilities[index], self.reviewer.classes
        verdict, members = self.verdict(index), self.prediction_set(index)
        return Prediction(
            label=classes[int(row.argmax())],
            confidence=float(row.max()),
            probabilities=dict(zip(classes, row.tolist(), strict=True)),
            prediction_set=members,
            review=self._review(index, verdict, members),
            unusual=verdict,
            without_set=self.reviewer.without_sets if self.columns.members is None else "",
        )

    @property
    def states(self) -> npt.NDArray[np.int64] | None:
        """How unusual each image is, as its place in `decision.ood.verdict.STATES`; None: not checked."""
        p_values, measures, usual = self.columns.p_values, self.columns.measures, self.reviewer.usual
        if p_values is None or measures is None or usual is None:
            return None
        return rank_states(p_values, breaks_rules(measures, usual.inputs), n_reference=usual.n_distances)

    @property
    def need_review(self) -> Flags:
        """Whether a person should look at each image: `review` has a reason."""
        columns, states = self.columns, self.states
        result = ~columns.answered | columns.disagree | bool(self.reviewer.remark)
        if columns.members is not None and columns.conforms is not None:
            result |= ~columns.conforms | (columns.members.sum(axis=1) > 1)
        return result if states is None else result | (states > 0)

    def prediction_set(self, image: int) -> tuple[str, ...] | None:
        """Return the classes that an image may have; None: there are no sets."""
        if self.columns.members is None:
            return None
        row = self.columns.members[image]
        return tuple(name for name, is_in in zip(self.reviewer.classes, row, strict=True) if is_in)

    def verdict(self, image: int) -> OodVerdict | None:
        """Return how an image compares with those of the training; None: not checked."""
        columns, usual = self.columns, self.reviewer.usual
        if columns.p_values is None or columns.parts is None or columns.measures is None or usual is None:
            return None
        broken_rules = find_broken_rules(columns.measures[image], usual.inputs)
        part, n_reference = list(PARTS)[columns.parts[image]], usual.n_distances
        return judge(float(columns.p_values[image]), broken_rules, part=part, n_reference=n_reference)

    def review(self, image: int) -> tuple[str, ...]:
        """Return why a person should look at an image, the gravest first; nothing where nothing speaks for it."""
        return self._review(image, self.verdict(image), self.prediction_set(image))

    def _review(self, image: int, verdict: OodVerdict | None, members: tuple[str, ...] | None) -> tuple[str, ...]:
        columns, report = self.columns, self.reviewer.report
        found = list(reasons(verdict))
        if self.reviewer.remark:
            found.append(self.reviewer.remark)
        if columns.conforms is not None and not columns.conforms[image]:
            found.append("no class conforms: less typical of each class than nearly all images of the study")
        elif members is not None and len(members) > 1:
            found.append(f"may be {' or '.join(members)}")
        if not columns.answered[image]:
            assert report.abstention is not None
            confidence = columns.probabilities[image].max()
            found.append(f"confidence {confidence:.3f} is below {report.abstention.threshold:.3f}")
        if columns.disagree[image]:
            found.append("the members disagree more than about 19 of 20 images of the study")
        return tuple(found)


def answers(threshold: float | None, probabilities: Probabilities) -> Flags:
    """Say of each image, (n_images,), whether the ensemble answers by itself.

    Args:
        threshold: Of the bundle's abstention point; None: it answers every image.
        probabilities: Calibrated and pooled, (n_images, n_classes).
    """
    if threshold is None:
        return np.ones(len(probabilities), dtype=np.bool_)
    result: Flags = probabilities.max(axis=1) >= threshold
    return result
