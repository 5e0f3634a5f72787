"""What becomes of a bundle's promises on images that nothing was chosen on. Source: docs/methods.md section 6."""

import numpy as np
import numpy.typing as npt

from consilia.config.frozen import Frozen
from consilia.decision.review import Goal, OperatingPoint, SafetyReport, answers
from consilia.decision.sets import CalibrationScores, PredictionSets, prediction_sets
from consilia.metrics.clustered import Rate, clustered_rate
from consilia.metrics.patients import BY_PATIENT, patient_weights
from consilia.metrics.subgroups import Scored

PROMISES_SEEN = f"here (one-sided 95 % bounds; {BY_PATIENT})"
"""Head of the column of what became of the promises."""


class PointSeen(Frozen):
    """A stored operating point on other images. None: there is no image to measure the rate on."""

    name: str  # of the class
    goal: Goal
    target: float
    threshold: float
    sensitivity: Rate | None
    specificity: Rate | None
    accuracy: Rate | None  # of the decision for or against the class


class SetsSeen(Frozen):
    """The prediction sets on other images, as they are shipped: one that would be empty holds every class."""

    target: float  # that the sets aim at
    coverage: Rate | None
    by_class: dict[str, Rate | None]
    mean_size: float  # classes in a set, over patients


class AbstentionSeen(Frozen):
    """What the ensemble answers by itself on other images, at the stored confidence."""

    target: float  # of the share of wrong answers
    threshold: float
    answered: Rate | None  # share of the images
    wrong: Rate | None  # share of the answers


class PromisesSeen(Frozen):
    """Every promise of a bundle, measured, every patient weighing the same. Bounds are one-sided, 95 % each."""

    points: tuple[PointSeen, ...]
    sets: SetsSeen | None  # None: the bundle has none
    abstention: AbstentionSeen | None  # None: it answers every image


def measure_promises(
    safety: SafetyReport, sets: CalibrationScores | None, scored: Scored, calibrated_folds: npt.NDArray[np.float64]
) -> PromisesSeen:
    """Apply what a bundle has stored to other images.

    Args:
        safety: Of the bundle.
        sets: Of the bundle, where it has prediction sets.
        scored: The images, with the ensemble's calibrated probabilities.
        calibrated_folds: Those of each fold ensemble, (n_folds, n_images, n_classes).
    """
    seen = None if sets is None else _see_sets(1 - sets.alpha, prediction_sets(sets, calibrated_folds), scored)
    return PromisesSeen(
        points=tuple(_see_point(point, scored) for point in safety.operating_points if point.threshold is not None),
        sets=seen,
        abstention=_see_abstention(safety, scored),
    )


def promise_rows(seen: PromisesSeen) -> list[tuple[str, str]]:
    """Return each promise in words, and what became of it."""
    rows = []
    for point in seen.points:
        rates = {"sensitivity": point.sensitivity, "specificity": point.specificity, "accuracy": point.accuracy}
        found = ", ".join(f"{name} {_in_words(rate)}" for name, rate in rates.items())
        rows.append((f"{point.goal} of {point.name} at least {point.target:g} at {point.threshold:.4g}", found))
    if (sets := seen.sets) is not None:
        by_class = "; ".join(f"{name} {_in_words(rate)}" for name, rate in sets.by_class.items())
        found = f"{_in_words(sets.coverage)}, {sets.mean_size:.2f} classes in a set; {by_class}"
        rows.append((f"sets hold the true class in {sets.target:.0%}", found))
    if (answers := seen.abstention) is not None:
        found = f"{_in_words(answers.wrong)} wrong among the {_in_words(answers.answered)} that are answered"
        rows.append((f"at most {answers.target:.0%} wrong from a confidence of {answers.threshold:.4g} on", found))
    return rows


def _in_words(rate: Rate | None) -> str:
    return "undefined" if rate is None else f"{rate.value:.3f} ({rate.low:.3f} to {rate.high:.3f})"


def _see_point(point: OperatingPoint, scored: Scored) -> PointSeen:
    assert point.threshold is not None
    number, patients = scored.classes.index(point.name), scored.patients
    positive = scored.labels == number
    called = scored.probabilities[:, number] >= point.threshold
    return PointSeen(
        name=point.name,
        goal=point.goal,
        target=point.target,
        threshold=point.threshold,
        sensitivity=clustered_rate(called[positive], patients[positive]),
        specificity=clustered_rate(~called[~positive], patients[~positive]),
        accuracy=clustered_rate(called == positive, patients),
    )


def _see_sets(target: float, sets: PredictionSets, scored: Scored) -> SetsSeen:
    labels, patients = scored.labels, scored.patients
    covered = sets.members[np.arange(len(labels)), labels]
    return SetsSeen(
        target=target,
        coverage=clustered_rate(covered, patients),
        by_class={
            name: clustered_rate(covered[labels == number], patients[labels == number])
            for number, name in enumerate(scored.classes)
        },
        mean_size=float(np.average(sets.members.sum(axis=1), weights=patient_weights(patients))),
    )


def _see_abstention(safety: SafetyReport, scored: Scored) -> AbstentionSeen | None:
    point = safety.abstention
    if point is None or point.threshold is None:
        return None
    answered = answers(point.threshold, scored.probabilities)
    wrong = scored.probabilities.argmax(axis=1) != scored.labels
    return AbstentionSeen(
        target=point.target,
        threshold=point.threshold,
        answered=clustered_rate(answered, scored.patients),
        wrong=clustered_rate(wrong[answered], scored.patients[answered]),
    )
