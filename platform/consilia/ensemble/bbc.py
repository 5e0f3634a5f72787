"""What the whole selection is worth on patients that it was not done on.

Picking the best of many candidates on the images that they are scored on flatters the pick. So patients are drawn with
replacement, everything that is chosen is chosen again on them, and the patients that were not drawn score it.

Source: docs/methods.md section 8; Tsamardinos, Greasidou and Borboudakis, Bootstrapping the out-of-sample predictions
for efficient and accurate cross-validation, Machine Learning 2018 (BBC-CV).
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
from joblib import Parallel, cpu_count, delayed
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from consilia.config.recipe import EnsembleRecipe
from consilia.config.records import Probabilities
from consilia.decision.calibrators import AnyCalibrator, calibrate
from consilia.decision.combination import LinearPool, combine
from consilia.ensemble.fitting import fit_recipe
from consilia.ensemble.selection import Candidates, Truth
from consilia.errors import RunError
from consilia.metrics.bootstrap import draw_patients, with_interval
from consilia.metrics.estimates import Estimate
from consilia.metrics.patients import patient_numbers
from consilia.metrics.scores import METRICS, Scores, Weights, metric

DRAWS = 200

_WORTH_PROCESSES = 10_000_000  # probabilities times draws: several seconds in one process, of which two start it
_MOST_PROCESSES = 16  # each copies two thirds of the candidates, and more than once


def bias_corrected(
    recipe: EnsembleRecipe,
    candidates: Candidates,
    truth: Truth,
    *,
    metric_names: Sequence[str] = tuple(METRICS),
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return each metric's mean over out-of-bag scores, with the percentile interval of these scores.

    The interval is that of about a third of the patients, so it is wider than one of all would be.

    Args:
        recipe: What is done in every draw: selection, the comparison with the best single trial, calibration.
        candidates: In the order of their trial numbers.
        truth: About the same images.
        metric_names: Names of METRICS.
        draws: Number of bootstrap samples.
        seed: Of the draws, and of the selection in each.

    Returns:
        By metric name; NaN where no draw leaves the metric defined.
    """
    scores = out_of_bag_scores(recipe, candidates, truth, metric_names=metric_names, draws=draws, seed=seed)
    return {name: with_interval(_mean_of_defined(values), values) for name, values in scores.items()}


def out_of_bag_scores(
    recipe: EnsembleRecipe,
    candidates: Candidates,
    truth: Truth,
    *,
    metric_names: Sequence[str] = tuple(METRICS),
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Scores]:
    """Return each metric in each draw, (draws,); arguments as of `bias_corrected`.

    NaN where a metric is undefined, and where a draw leaves no patient out, takes patients of one fold only, or does
    not support the calibrator that the recipe names.
    """
    numbers, n_patients = patient_numbers(truth.patients)
    blocks = draw_patients(n_patients, n_patients, draws=draws, seed=seed)
    work = (
        delayed(_score_out_of_bag)(recipe, candidates, truth, counts[numbers], tuple(metric_names), seed=seed)
        for counts in chain.from_iterable(blocks)
    )
    is_worth_processes = candidates.size * draws >= _WORTH_PROCESSES
    found = _run(work, n_processes=min(cpu_count(), _MOST_PROCESSES) if is_worth_processes else 1)
    return {name: np.array(values) for name, values in zip(metric_names, zip(*found, strict=True), strict=True)}


def _run(work: Iterable[Any], *, n_processes: int) -> list[list[float]]:
    """Return what each piece of work returns, in order; one process is this one, more are ended afterwards."""
    try:
        found: list[list[float]] = Parallel(n_processes)(work)
    except TerminatedWorkerError as error:
        raise RunError(
            "A process that scores bootstrap samples of the search died. If memory ran out, free some and build the "
            "ensemble again (consilia ensemble STUDY); nothing is trained again."
        ) from error
    finally:
        if n_processes > 1:
            get_reusable_executor(reuse=True).shutdown()
    return found


def _score_out_of_bag(
    recipe: EnsembleRecipe,
    candidates: Candidates,
    truth: Truth,
    drawn: Weights,
    metric_names: tuple[str, ...],
    *,
    seed: int,
) -> list[float]:
    """Return the metrics of one draw, NaN without a choice."""
    predicted = _predict_out_of_bag(recipe, candidates, truth, drawn, seed=seed)
    if predicted is None:
        return [float("nan")] * len(metric_names)
    labels, patients = truth.labels[drawn == 0], truth.patients[drawn == 0]
    return [metric(name).function(predicted, labels, None, patients) for name in metric_names]


def _predict_out_of_bag(
    recipe: EnsembleRecipe, candidates: Candidates, truth: Truth, drawn: Weights, *, seed: int
) -> Probabilities | None:
    """Return what the choice of one draw says of the images left out, (n_out, n_classes); None without a choice."""
    out = drawn == 0
    if not out.any() or len(np.unique(truth.folds[~out])) < 2:
        return None
    try:
        combination, calibrator = _choose_in_bag(recipe, candidates, truth, drawn, seed=seed)
    except RunError:  # a calibrator that the recipe names, and all patients support, may be refused to the drawn ones
        return None
    return calibrate(calibrator, combine(candidates[:, out], combination))


def _choose_in_bag(
    recipe: EnsembleRecipe, candidates: Candidates, truth: Truth, drawn: Weights, *, seed: int
) -> tuple[LinearPool, AnyCalibrator]:
    """Select and calibrate on the drawn patients, each as often as `drawn` says of its images, (n_images,)."""
    bag = drawn > 0
    sample = Truth(labels=truth.labels, patients=truth.patients, folds=truth.folds, drawn=drawn).subset(bag)
    fitted = fit_recipe(recipe, candidates[:, bag], sample, seed=seed)
    return fitted.choice.combination, fitted.calibration.calibrator


def _mean_of_defined(values: Scores) -> float:
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else float("nan")
