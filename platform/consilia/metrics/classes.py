"""Scores of each class on its own, through scikit-learn."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from consilia.config.records import Labels, Probabilities
from consilia.metrics.scores import Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScores:
    """How one class fares against the rest, at the most probable class."""

    name: str
    images: int  # of this class
    precision: float  # 0 where the class is never predicted
    recall: float  # 0 where the class has no image
    f1: float


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
