"""Two predictors on the same images. Source: docs/methods.md section 8.

Both meet the same hard and easy patients, so their difference is surer than either number: each bootstrap draw scores
both, and the interval is that of the difference.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from consilia.config.frozen import Frozen
from consilia.config.records import Labels, Probabilities
from consilia.metrics.bootstrap import DRAWS, bootstrap_scores, with_interval
from consilia.metrics.estimates import Estimate, defined_or_none
from consilia.metrics.patients import FEWEST_PATIENTS
from consilia.metrics.scores import METRICS, metric

Verdict = Literal["better", "worse", "cannot be told"]


class PairedMetric(Frozen):
    """One metric of two predictors; None where the labels leave it undefined."""

    metric: str
    first: Estimate | None
    second: Estimate | None
    difference: Estimate | None  # first minus second; where 0 is best, of the distances from 0
    verdict: Verdict  # on the first: beyond chance, at 95 %


def compare_paired(
    first: Probabilities,
    second: Probabilities,
    labels: Labels,
    patients: npt.NDArray[np.str_],
    *,
    metric_names: Sequence[str] = tuple(METRICS),
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[PairedMetric, ...]:
    """Return each metric of both predictors, their difference, and whether the first is better.

    Args:
        first: (n_images, n_classes).
        second: Of the same images, (n_images, n_classes).
        labels: True class numbers, (n_images,).
        patients: Patient of each image, (n_images,).
        metric_names: Names of METRICS.
        draws: Number of bootstrap samples, the same for both.
        seed: Of the draws.

    Raises:
        PlanError: An unknown metric.
        ValueError: Unequal shapes, no image, or NaN among the probabilities.
    """
    if first.shape != second.shape:
        raise ValueError(f"both predictors must score the same images, but got {first.shape} and {second.shape}")
    n_patients = len(np.unique(patients))
    one, two = (
        bootstrap_scores(metric_names, each, labels, patients, draws=draws, seed=seed) for each in (first, second)
    )
    return tuple(
        _pair(
            name,
            (metric(name).function(first, labels, None, patients), one[name]),
            (metric(name).function(second, labels, None, patients), two[name]),
            n_patients=n_patients,
        )
        for name in one
    )


def judge(name: str, difference: Estimate | None, *, n_patients: int) -> Verdict:
    """Return whether a metric that differs by this much is better, worse, or neither beyond chance.

    Nothing is claimed of fewer than 30 patients: the interval itself is unreliable then.

    Args:
        name: Of METRICS.
        difference: Judged minus other; where 0 is best, of the distances from 0.
        n_patients: That the difference was measured on.
    """
    if difference is None or n_patients < FEWEST_PATIENTS or difference.low <= 0 <= difference.high:
        return "cannot be told"
    return "better" if (difference.low > 0) == bool(metric(name).higher_is_better) else "worse"


def subtract(
    name: str, first: tuple[float, npt.NDArray[np.float64]], second: tuple[float, npt.NDArray[np.float64]]
) -> Estimate:
    """Return first minus second, each a metric's value and its score in each draw, (draws,), of equal draws."""
    if metric(name).higher_is_better is None:
        first, second = ((abs(value), np.abs(scores)) for value, scores in (first, second))
    return with_interval(first[0] - second[0], first[1] - second[1])


def _pair(
    name: str,
    first: tuple[float, npt.NDArray[np.float64]],
    second: tuple[float, npt.NDArray[np.float64]],
    *,
    n_patients: int,
) -> PairedMetric:
    found = defined_or_none(
        {"a": with_interval(*first), "b": with_interval(*second), "a-b": subtract(name, first, second)}
    )
    return PairedMetric(
        metric=name,
        first=found["a"],
        second=found["b"],
        difference=found["a-b"],
        verdict=judge(name, found["a-b"], n_patients=n_patients),
    )
