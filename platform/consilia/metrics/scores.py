"""Metrics of class probabilities; each is computed for many weightings of the images at once.

A bootstrap draw is a weighting, so a metric and its interval come from the same lines of code.
Source: docs/methods.md sections 5 and 8.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from consilia.config.records import Labels, Logits, Probabilities
from consilia.errors import PlanError
from consilia.metrics.calibration_error import squared_calibration_error
from consilia.metrics.patients import patient_numbers

Weights = npt.NDArray[np.float64]  # (n_images,), not negative
Weightings = npt.NDArray[np.float64]  # (n_weightings, n_images), not negative
Scores = npt.NDArray[np.float64]  # (n_weightings,)
PatientNumbers = npt.NDArray[np.int64]  # (n_images,)
Scorer = Callable[[Probabilities, Labels, Weightings, PatientNumbers | None], Scores]

SMALLEST_PROBABILITY = 1e-15  # log loss clips here, so one wrong certainty costs 34.5 nats, not infinity


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricInfo:
    """One metric: its direction, and its value for each of many weightings of the same images."""

    score_weightings: Scorer
    higher_is_better: bool | None  # None: 0 is best, from either side
    title: str

    def function(
        self,
        probabilities: Probabilities,
        labels: Labels,
        weights: Weights | None = None,
        patients: npt.NDArray[np.str_] | None = None,
    ) -> float:
        """Return the metric of `probabilities` (n_images, n_classes).

        Args:
            probabilities: Rows sum to 1.
            labels: True class numbers, (n_images,).
            weights: Of each image; None: all equal.
            patients: Of each image, (n_images,); None: each image is taken as a patient of its own. Only the ECE asks.

        Returns:
            The metric; NaN where the labels leave it undefined (see `macro_auc`; the ECE needs two patients), never
            otherwise.

        Raises:
            ValueError: No image, unequal lengths, or a NaN among the probabilities.
        """
        check_scorable(probabilities, labels)
        weightings = np.ones((1, len(labels))) if weights is None else np.asarray(weights, np.float64)[None]
        numbers = None if patients is None else patient_numbers(patients)[0]
        return float(self.score_weightings(probabilities, labels, weightings, numbers)[0])


def softmax(logits: Logits | npt.NDArray[np.float64]) -> Probabilities:
    """Return float64 probabilities (..., n_classes) of logits of the same shape."""
    shifted = np.asarray(logits, dtype=np.float64)
    shifted = shifted - shifted.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    result: Probabilities = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return result


def image_log_loss(probabilities: Probabilities, labels: Labels) -> npt.NDArray[np.float64]:
    """Return the loss of each image, (n_images,), in nats; lower is better."""
    true = probabilities[np.arange(len(labels)), labels]
    losses: npt.NDArray[np.float64] = -np.log(np.clip(true, SMALLEST_PROBABILITY, 1.0))
    return losses


def check_scorable(probabilities: Probabilities, labels: Labels) -> None:
    """Raise ValueError unless the two belong together: one row an image, one column a class, no NaN."""
    if probabilities.ndim != 2 or len(probabilities) != len(labels) or len(labels) == 0:
        raise ValueError(
            "probabilities must be (n_images, n_classes) with one label an image and at least one image, "
            f"but got {probabilities.shape} and {labels.shape}"
        )
    if not np.isfinite(probabilities).all():
        raise ValueError("probabilities must be finite, but some are NaN or infinite")


def metric(name: str) -> MetricInfo:
    """Return the metric called `name`.

    Raises:
        PlanError: No metric has this name; the nearest one is named.
    """
    if name in METRICS:
        return METRICS[name]
    near = difflib.get_close_matches(name, METRICS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(METRICS)}."
    raise PlanError(f"A metric must be known by name, but got {name!r}: {hint}")


def score(probabilities: Probabilities, labels: Labels, weights: Weights | None = None) -> dict[str, float]:
    """Return every metric of METRICS by name; arguments as of `MetricInfo.function`."""
    return {name: info.function(probabilities, labels, weights) for name, info in METRICS.items()}


def _log_loss(probabilities: Probabilities, labels: Labels, weightings: Weightings) -> Scores:
    return _weighted_mean(image_log_loss(probabilities, labels), weightings)


def _accuracy(probabilities: Probabilities, labels: Labels, weightings: Weightings) -> Scores:
    return _weighted_mean(_is_correct(probabilities, labels), weightings)


def _brier(probabilities: Probabilities, labels: Labels, weightings: Weightings) -> Scores:
    """Sum over classes of squared errors, 0 ... 2."""
    squares = ((probabilities - _one_hot(labels, probabilities.shape[1])) ** 2).sum(axis=1)
    return _weighted_mean(squares, weightings)


def _signed_gap(probabilities: Probabilities, labels: Labels, weightings: Weightings) -> Scores:
    """Mean confidence minus accuracy: above 0 is over-confident."""
    return _weighted_mean(probabilities.max(axis=1) - _is_correct(probabilities, labels), weightings)


def _balanced_accuracy(probabilities: Probabilities, labels: Labels, weightings: Weightings) -> Scores:
    """Mean recall of the classes that have an image of positive weight."""
    classes = _one_hot(labels, probabilities.shape[1])
    images = weightings @ classes  # (n_weightings, n_classes)
    hits = weightings @ (classes * _is_correct(probabilities, labels)[:, None])
    return _mean_of_defined(hits, images)


def _macro_auc(probabilities: Probabilities, labels: Labels, weightings: Weightings) -> Scores:
    """Unweighted mean of the one-against-rest AUCs.

    A class without an image, or without an image of another class, has no AUC and is left out of the mean;
    where that leaves no class the result is NaN. Source: Mann-Whitney, ties count a half.
    """
    n_classes = probabilities.shape[1]
    wins = np.zeros((len(weightings), n_classes))
    pairs = np.zeros((len(weightings), n_classes))
    for number in range(n_classes):
        positive = (labels == number).astype(np.float64)
        wins[:, number], pairs[:, number] = _won_pairs(probabilities[:, number], positive, weightings)
    return _mean_of_defined(wins, pairs)


def _won_pairs(
    scores: npt.NDArray[np.float64], positive: npt.NDArray[np.float64], weightings: Weightings
) -> tuple[Scores, Scores]:
    """Weight of the (positive, negative) pairs in the right order, and of all such pairs."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # of each run of equal scores
    sorted_weightings = weightings[:, order]
    positives = np.add.reduceat(sorted_weightings * positive[order], starts, axis=1)
    negatives = np.add.reduceat(sorted_weightings * (1 - positive[order]), starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives / 2
    return (positives * below).sum(axis=1), positives.sum(axis=1) * negatives.sum(axis=1)


def _ece(
    probabilities: Probabilities, labels: Labels, weightings: Weightings, patients: PatientNumbers | None
) -> Scores:
    """Root mean squared calibration error of the most probable class, debiased; 0 where its square is negative."""
    correct = _is_correct(probabilities, labels)
    squares = squared_calibration_error(probabilities.max(axis=1), correct, weightings, patients)
    roots: Scores = np.sqrt(np.maximum(squares, 0.0))
    return roots


def _one_hot(labels: Labels, n_classes: int) -> npt.NDArray[np.float64]:
    return np.eye(n_classes)[labels]


def _is_correct(probabilities: Probabilities, labels: Labels) -> npt.NDArray[np.float64]:
    correct: npt.NDArray[np.bool_] = probabilities.argmax(axis=1) == labels
    return correct.astype(np.float64)


def _weighted_mean(values: npt.NDArray[np.float64], weightings: Weightings) -> Scores:
    result: Scores = (weightings @ values) / weightings.sum(axis=1)
    return result


def _mean_of_defined(numerators: Weightings, denominators: Weightings) -> Scores:
    """Mean over columns of the ratios whose denominator is positive; NaN for a row that has none."""
    defined = denominators > 0
    ratios = np.divide(numerators, denominators, out=np.zeros_like(numerators), where=defined)
    count = defined.sum(axis=1)
    means: Scores = np.divide(ratios.sum(axis=1), count, out=np.full(len(count), np.nan), where=count > 0)
    return means


def _by_image(scorer: Callable[[Probabilities, Labels, Weightings], Scores]) -> Scorer:
    return lambda probabilities, labels, weightings, _: scorer(probabilities, labels, weightings)


METRICS: Mapping[str, MetricInfo] = {
    "log_loss": MetricInfo(score_weightings=_by_image(_log_loss), higher_is_better=False, title="log loss"),
    "macro_auc": MetricInfo(score_weightings=_by_image(_macro_auc), higher_is_better=True, title="macro AUC"),
    "accuracy": MetricInfo(score_weightings=_by_image(_accuracy), higher_is_better=True, title="accuracy"),
    "balanced_accuracy": MetricInfo(
        score_weightings=_by_image(_balanced_accuracy), higher_is_better=True, title="balanced accuracy"
    ),
    "brier": MetricInfo(score_weightings=_by_image(_brier), higher_is_better=False, title="Brier score"),
    "ece": MetricInfo(score_weightings=_ece, higher_is_better=False, title="ECE (RMS, debiased)"),
    "signed_gap": MetricInfo(
        score_weightings=_by_image(_signed_gap), higher_is_better=None, title="confidence minus accuracy"
    ),
}
