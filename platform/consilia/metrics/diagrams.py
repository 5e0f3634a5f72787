"""The numbers behind the tables of classes and the figures of an evaluation. Source: docs/methods.md section 8."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from consilia.config.records import Labels, Probabilities
from consilia.metrics.bootstrap import draw_patients
from consilia.metrics.calibration_error import n_bins
from consilia.metrics.patients import patient_numbers, patient_weights
from consilia.metrics.scores import Weights, check_scorable, image_log_loss

MOST_BINS = 10
DRAWS = 500
_GRID = np.linspace(0.0, 1.0, 101)
_PERCENTILES = (2.5, 97.5)

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScores:
    """How one class fares against the rest, at the most probable class."""

    name: str
    images: int  # of this class
    precision: float  # 0 where the class is never predicted
    recall: float  # 0 where the class has no image
    f1: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reliability:
    """How often predictions of about one confidence are right, in bins of equally many images, at least 20."""

    confidence: Numbers  # (n_bins,) mean, ascending
    accuracy: Numbers  # (n_bins,)
    low: Numbers  # (n_bins,) of the accuracy that a calibrated predictor would show here, 95 %
    high: Numbers
    images: npt.NDArray[np.int64]  # (n_bins,)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curve:
    """A curve on a grid from 0 to 1, with a 95 % band over patients."""

    x: Numbers  # (101,)
    y: Numbers
    low: Numbers
    high: Numbers


def class_scores(
    probabilities: Probabilities, labels: Labels, classes: Sequence[str], *, weights: Weights | None = None
) -> tuple[ClassScores, ...]:
    """Return precision, recall and F1 of every class, in class order.

    Args:
        probabilities: (n_images, n_classes).
        labels: True class numbers, (n_images,).
        classes: Names in label order.
        weights: Of each image; None: all equal.
    """
    numbers = np.arange(len(classes))
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, probabilities.argmax(axis=1), labels=numbers, sample_weight=weights, zero_division=0.0
    )
    images = np.bincount(labels, minlength=len(classes))
    return tuple(
        ClassScores(
            name=name,
            images=int(images[number]),
            precision=float(precision[number]),
            recall=float(recall[number]),
            f1=float(f1[number]),
        )
        for number, name in enumerate(classes)
    )


def confusion(probabilities: Probabilities, labels: Labels) -> tuple[tuple[int, ...], ...]:
    """Return the number of images by true class (row) and most probable class (column)."""
    numbers = np.arange(probabilities.shape[1])
    matrix = confusion_matrix(labels, probabilities.argmax(axis=1), labels=numbers)
    return tuple(tuple(int(count) for count in row) for row in matrix)


def reliability(
    probabilities: Probabilities, labels: Labels, patients: npt.NDArray[np.str_], *, draws: int = DRAWS, seed: int = 0
) -> Reliability:
    """Return the reliability diagram of the most probable class, with consistency bands.

    The bands say where the accuracy of a bin would lie if every confidence were true: patients are drawn with
    replacement, and each of their predictions is right with the probability that it claims. An accuracy outside its
    band is more than chance; the band of a bin with few images is wide.

    Args:
        probabilities: (n_images, n_classes).
        labels: (n_images,).
        patients: Of each image, (n_images,).
        draws: Of patients and outcomes.
        seed: Of them.

    Source: Bröcker and Smith, Increasing the Reliability of Reliability Diagrams, Weather and Forecasting 2007.
    """
    check_scorable(probabilities, labels)
    confidence = probabilities.max(axis=1)
    right = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    bins = np.array_split(np.argsort(confidence, kind="stable"), n_bins(len(labels), most=MOST_BINS))
    numbers, n_patients = patient_numbers(patients)
    generator = np.random.default_rng(seed)
    simulated = []
    for block in draw_patients(n_patients, len(labels), draws=draws, seed=seed):
        counts = block[:, numbers]
        outcomes = generator.random(counts.shape) < confidence
        hits = np.stack([(counts * outcomes)[:, rows].sum(axis=1) for rows in bins], axis=1)
        totals = np.stack([counts[:, rows].sum(axis=1) for rows in bins], axis=1)
        simulated.append(np.divide(hits, totals, out=np.full_like(hits, np.nan), where=totals > 0))
    low, high = np.nanpercentile(np.concatenate(simulated), _PERCENTILES, axis=0)
    return Reliability(
        confidence=np.array([confidence[rows].mean() for rows in bins]),
        accuracy=np.array([right[rows].mean() for rows in bins]),
        low=low,
        high=high,
        images=np.array([len(rows) for rows in bins]),
    )


def roc_curve(
    scores: Numbers,
    positive: npt.NDArray[np.bool_],
    patients: npt.NDArray[np.str_],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Curve | None:
    """Return the sensitivity (y) at each share of false positives (x); None where one kind of image is missing.

    Args:
        scores: Probability of the class, (n_images,).
        positive: Whether the image is of it, (n_images,).
        patients: Of each image, (n_images,).
        draws: Bootstrap samples of patients for the band.
        seed: Of them.
    """

    def of(true: Numbers, false: Numbers) -> Numbers:
        heights: Numbers = np.interp(_GRID, np.append(0.0, false / false[-1]), np.append(0.0, true / true[-1]))
        return heights

    return _curve(scores, positive, patients, of, draws=draws, seed=seed)


def precision_recall_curve(
    scores: Numbers,
    positive: npt.NDArray[np.bool_],
    patients: npt.NDArray[np.str_],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Curve | None:
    """Return the precision (y) at the strictest threshold that reaches each recall (x); arguments as of `roc_curve`."""

    def of(true: Numbers, false: Numbers) -> Numbers:
        reached = np.searchsorted(true, _GRID * true[-1] * (1 - 1e-12), side="left")
        precision: Numbers = true[reached] / np.maximum(true[reached] + false[reached], 1e-300)
        return precision

    return _curve(scores, positive, patients, of, draws=draws, seed=seed)


def error_correlation(members: Probabilities, labels: Labels) -> Numbers:
    """Return the correlation between members of what each misses of the true class, (n_members, n_members).

    Near 1, members err on the same images and averaging them gains little.

    Args:
        members: (n_members, n_images, n_classes).
        labels: (n_images,).
    """
    errors = 1 - members[:, np.arange(len(labels)), labels]
    with np.errstate(invalid="ignore", divide="ignore"):  # undefined for a member that never errs
        result: Numbers = np.atleast_2d(np.corrcoef(errors))
    return result


def loss_by_size(members: Probabilities, weights: Numbers, labels: Labels, patients: npt.NDArray[np.str_]) -> Numbers:
    """Return the log loss of the 1, 2, ... members of the largest weights, (n_members,), every patient weighing 1.

    Args:
        members: What each says, (n_members, n_images, n_classes).
        weights: (n_members,).
        labels: (n_images,).
        patients: (n_images,).
    """
    order = np.argsort(-weights, kind="stable")
    image_weights = patient_weights(patients)
    losses = []
    for size in range(1, len(order) + 1):
        kept = order[:size]
        mixed = np.tensordot(weights[kept] / weights[kept].sum(), members[kept], axes=1)
        losses.append(float(np.average(image_log_loss(mixed, labels), weights=image_weights)))
    return np.array(losses)


def _curve(
    scores: Numbers,
    positive: npt.NDArray[np.bool_],
    patients: npt.NDArray[np.str_],
    of: Callable[[Numbers, Numbers], Numbers],
    *,
    draws: int,
    seed: int,
) -> Curve | None:
    """Return the curve that `of` makes of the running counts of true and false positives, and its band."""
    if positive.all() or not positive.any():
        return None
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(-scores[order], append=np.inf))  # images of equal scores are called together
    numbers, n_patients = patient_numbers(patients)
    kinds = positive[order].astype(np.float64)

    def from_counts(counts: Numbers) -> Numbers:
        return of(np.cumsum(counts * kinds)[ends], np.cumsum(counts * (1 - kinds))[ends])

    drawn = [
        from_counts(counts[numbers][order])
        for block in draw_patients(n_patients, len(scores), draws=draws, seed=seed)
        for counts in block
        if 0 < (counts[numbers] * positive).sum() < counts[numbers].sum()
    ]
    low, high = np.percentile(drawn, _PERCENTILES, axis=0) if drawn else (np.full(len(_GRID), np.nan),) * 2
    return Curve(x=_GRID, y=from_counts(np.ones(len(scores))), low=low, high=high)
