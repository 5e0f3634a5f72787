"""What the whole selection is worth on patients that it was not done on.

Whoever picks the best of many on the images that they are scored on flatters the pick. So patients are drawn with
replacement, everything that is chosen on them is chosen again, and the patients that were not drawn score it.

Source: docs/methods.md section 8; Tsamardinos, Greasidou and Borboudakis, Bootstrapping the out-of-sample predictions
for efficient and accurate cross-validation, Machine Learning 2018 (BBC-CV).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from consilia.cpus import usable_cpus
from consilia.ensemble.calibrating.calibration import choose_calibrator
from consilia.ensemble.calibrating.calibrators import AnyCalibrator, calibrate
from consilia.ensemble.choosing.choice import choose
from consilia.ensemble.choosing.combination import AnyCombination, combine
from consilia.ensemble.choosing.selection import Candidates, Truth
from consilia.ensemble.choosing.unseen import combine_unseen
from consilia.errors import RunError
from consilia.plan.ensemble import EnsembleRecipe
from consilia.records import Interval, Probabilities
from consilia.scoring.bootstrap import draw_patients, interval
from consilia.scoring.metrics import METRICS, Scores, Weights, metric
from consilia.scoring.patients import patient_numbers

DRAWS = 200

_MOST_THREADS = 8  # a draw copies two thirds of the candidates


def bias_corrected(
    recipe: EnsembleRecipe,
    candidates: Candidates,
    truth: Truth,
    *,
    metric_names: Sequence[str] = tuple(METRICS),
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Interval]:
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
    return {name: interval(_mean_of_defined(values), values) for name, values in scores.items()}


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
    infos = {name: metric(name) for name in metric_names}
    numbers, n_patients = patient_numbers(truth.patients)
    scores: dict[str, list[float]] = {name: [] for name in infos}

    def score(counts: Weights) -> list[float]:
        drawn = counts[numbers]
        predicted = _predict_out_of_bag(recipe, candidates, truth, drawn, seed=seed)
        if predicted is None:
            return [float("nan")] * len(infos)
        return [info.function(predicted, truth.labels[drawn == 0]) for info in infos.values()]

    # Threads share the candidates, and NumPy works in them side by side.
    with ThreadPoolExecutor(min(usable_cpus(), _MOST_THREADS), thread_name_prefix="consilia-bbc") as threads:
        for block in draw_patients(n_patients, n_patients, draws=draws, seed=seed):
            for found in threads.map(score, block):
                for name, value in zip(infos, found, strict=True):
                    scores[name].append(value)
    return {name: np.array(values, dtype=np.float64) for name, values in scores.items()}


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
) -> tuple[AnyCombination, AnyCalibrator]:
    """Select and calibrate on the drawn patients, each as often as `drawn` says of its images, (n_images,)."""
    bag = drawn > 0
    sample = Truth(labels=truth.labels, patients=truth.patients, folds=truth.folds, drawn=drawn).subset(bag)
    inside = candidates[:, bag]
    choice = choose(recipe.selection, inside, sample, seed=seed)
    unseen = combine_unseen(inside, choice.combination, sample)
    return choice.combination, choose_calibrator(recipe.calibration, unseen, sample).calibrator


def _mean_of_defined(values: Scores) -> float:
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else float("nan")
