"""Percentile bootstrap over patients. Source: Efron and Tibshirani 1993, chapter 13; docs/methods.md section 8."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from consilia.config.records import Labels, Probabilities
from consilia.metrics.estimates import Estimate
from consilia.metrics.patients import patient_numbers
from consilia.metrics.scores import Scores, Weightings, Weights, check_scorable, metric

DRAWS = 2000
_BLOCK_NUMBERS = 4_000_000  # weights held at a time: 32 MB


def patient_bootstrap(
    metric_names: Sequence[str],
    probabilities: Probabilities,
    labels: Labels,
    patients: npt.NDArray[np.str_],
    *,
    weights: Weights | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return each metric with its 95 % interval over patients drawn with replacement.

    In a draw an image weighs as often as its patient was drawn: no image is copied, and none is sorted again.

    Args:
        metric_names: Names of METRICS.
        probabilities: (n_images, n_classes).
        labels: True class numbers, (n_images,).
        patients: Patient of each image, (n_images,); all of a patient's images are drawn together.
        weights: Of each image, on top of the draw; None: all equal.
        draws: Number of bootstrap samples.
        seed: Of the draws; the same seed gives the same draws to every metric and every model.

    Returns:
        By metric name. Draws in which a metric is undefined are left out of its interval; where the metric
        itself is undefined, all three numbers are NaN.

    Raises:
        PlanError: An unknown metric.
        ValueError: Unequal lengths, no image, or NaN among the probabilities.
    """
    scores = bootstrap_scores(metric_names, probabilities, labels, patients, weights=weights, draws=draws, seed=seed)
    return {
        name: with_interval(metric(name).function(probabilities, labels, weights, patients), scores[name])
        for name in scores
    }


def bootstrap_scores(
    metric_names: Sequence[str],
    probabilities: Probabilities,
    labels: Labels,
    patients: npt.NDArray[np.str_],
    *,
    weights: Weights | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Scores]:
    """Return each metric in each draw, (draws,); arguments and errors as of `patient_bootstrap`.

    Equal seeds give equal draws of the same patients, so scores of two models, or of two sets of their images (by
    weights of 0 and 1), may be subtracted draw by draw. Where a draw leaves a metric undefined, or takes no image of
    positive weight, the score is NaN.
    """
    check_scorable(probabilities, labels)
    infos = {name: metric(name) for name in metric_names}
    numbers, n_patients = patient_numbers(patients)
    if len(numbers) != len(labels):
        raise ValueError(f"every image must have a patient, but got {len(numbers)} for {len(labels)} images")
    base = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)
    counted = np.flatnonzero(base)
    shown, true, numbers, base = probabilities[counted], labels[counted], numbers[counted], base[counted]
    scores: dict[str, list[Scores]] = {name: [] for name in infos}
    for counts in draw_patients(n_patients, len(counted), draws=draws, seed=seed):
        weightings = counts[:, numbers] * base
        empty = ~weightings.any(axis=1)
        weightings[empty] = 1.0  # any: what it gives is dropped
        for name, info in infos.items():
            scores[name].append(np.where(empty, np.nan, info.score_weightings(shown, true, weightings, numbers)))
    return {name: np.concatenate(parts) for name, parts in scores.items()}


def bootstrap_standard_error(
    values: npt.NDArray[np.float64],
    patients: npt.NDArray[np.str_],
    *,
    weights: Weights | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> float:
    """Return the standard error over patients of the weighted mean of `values`, (n_images,).

    Given the differences of two models' losses on the same images, it is the paired error of the gain.
    """
    numbers, n_patients = patient_numbers(patients)
    base = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    masses = np.bincount(numbers, base)  # (n_patients,)
    sums = np.bincount(numbers, base * values)
    means = [
        (counts @ sums) / (counts @ masses) for counts in draw_patients(n_patients, n_patients, draws=draws, seed=seed)
    ]
    return float(np.std(np.concatenate(means), ddof=1))


def with_interval(value: float, scores: Scores) -> Estimate:
    """Return `value` with the 95 % percentile interval of `scores`, (draws,); undefined scores are left out."""
    defined = scores[np.isfinite(scores)]
    if not np.isfinite(value) or len(defined) == 0:
        return Estimate(value=float("nan"), low=float("nan"), high=float("nan"))
    low, high = np.percentile(defined, [2.5, 97.5])
    return Estimate(value=value, low=float(low), high=float(high))


def draw_patients(n_patients: int, n_columns: int, *, draws: int, seed: int) -> Iterator[Weightings]:
    """Yield how often each patient was drawn, (block, n_patients), in blocks whose weights fit in memory.

    The size of a block does not change the draws.
    """
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK_NUMBERS // max(n_columns, n_patients))
    shares = np.full(n_patients, 1.0 / n_patients)
    for start in range(0, draws, block):
        size = min(block, draws - start)
        yield generator.multinomial(n_patients, shares, size=size).astype(np.float64)
