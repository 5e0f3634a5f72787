"""An ensemble of several trials has to earn its place. Source: docs/methods.md section 4."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from consilia.config.recipe import BestSingle, Selection
from consilia.config.records import Probabilities
from consilia.decision.combination import LinearPool
from consilia.ensemble.selection import Candidates, Truth, combine_cross_fitted, cross_fit, select
from consilia.metrics.bootstrap import bootstrap_standard_error
from consilia.metrics.patients import BY_PATIENT, patient_numbers
from consilia.metrics.scores import Weights, image_log_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The members that are shipped, and why."""

    combination: LinearPool  # of the candidates
    fold_combinations: tuple[LinearPool, ...]  # (n_folds,), each selected without its fold
    reason: str
    gain: float | None  # cross-fitted log loss of the best single trial minus the ensemble's
    standard_error: float | None  # of the gain, over patients


def choose(selection: Selection, candidates: Candidates, truth: Truth, *, seed: int) -> Choice:
    """Select by the recipe, but ship the single best trial unless the ensemble is clearly better.

    Clearly: the gain in cross-fitted log loss exceeds one standard error, by bootstrap over patients. Both
    sides are selected anew for every fold without its images, so neither profits from having been chosen.

    Args:
        selection: The recipe's selection.
        candidates: In the order of their trial numbers.
        truth: About the same images; of a bootstrap sample, those that were drawn.
        seed: Of the selection and of the bootstrap.
    """
    single = BestSingle()
    combination = select(selection, candidates, truth, seed=seed)
    single_folds = cross_fit(single, candidates, truth, seed=seed)
    if isinstance(selection, BestSingle):
        reason = "The recipe asks for the trial with the lowest out-of-fold log loss, alone."
        return _without_comparison(combination, single_folds, reason)
    if len(combination.members) == 1:
        reason = "The selection itself kept a single trial: no other lowers the out-of-fold log loss."
        return _without_comparison(combination, single_folds, reason)
    folds = cross_fit(selection, candidates, truth, seed=seed)
    ensemble, alone = (combine_cross_fitted(candidates, pools, truth) for pools in (folds, single_folds))
    gain, error = _gain(ensemble, alone, truth, seed=seed)
    measured = (
        f"its cross-fitted log loss is {abs(gain):.4f} {'below' if gain > 0 else 'above'} "
        f"that of the best single trial (standard error over patients {error:.4f}; {BY_PATIENT})"
    )
    if gain > error:
        reason = f"The ensemble earned its place: {measured}."
        return Choice(combination=combination, fold_combinations=folds, reason=reason, gain=gain, standard_error=error)
    reason = (
        f"The best single trial is shipped: an ensemble of {len(combination.members)} trials did not earn "
        f"its place, since {measured}, and the gain must exceed one standard error."
    )
    return Choice(
        combination=select(single, candidates, truth, seed=seed),
        fold_combinations=single_folds,
        reason=reason,
        gain=gain,
        standard_error=error,
    )


def _without_comparison(combination: LinearPool, folds: tuple[LinearPool, ...], reason: str) -> Choice:
    return Choice(combination=combination, fold_combinations=folds, reason=reason, gain=None, standard_error=None)


def _gain(ensemble: Probabilities, single: Probabilities, truth: Truth, *, seed: int) -> tuple[float, float]:
    """Mean and standard error, over patients, of how much lower the ensemble's loss is."""
    gains = image_log_loss(single, truth.labels) - image_log_loss(ensemble, truth.labels)
    weights = truth.weights
    if truth.drawn is None:
        error = bootstrap_standard_error(gains, truth.patients, weights=weights, seed=seed)
    else:
        error = _standard_error(gains, truth.patients, weights)
    return float(np.average(gains, weights=weights)), error


def _standard_error(gains: npt.NDArray[np.float64], patients: npt.NDArray[np.str_], weights: Weights) -> float:
    """Return what the bootstrap of a bootstrap sample tends to with ever more draws.

    A patient that was drawn twice stands for two: a bootstrap of the distinct patients would draw the pair as one.
    """
    numbers, _ = patient_numbers(patients)
    counts = np.bincount(numbers, weights)  # how often each patient was drawn
    means = np.bincount(numbers, weights * gains) / counts
    mean = np.average(means, weights=counts)
    return float(np.sqrt((counts * (means - mean) ** 2).sum()) / counts.sum())
