"""How sure the ensemble says it is. Source: docs/methods.md section 5; Guo et al., ICML 2017 (temperature scaling).

Out-of-fold probabilities come from one fold's networks, but the predictor has those of k folds. So the
calibrator is fitted to, and applied to, the probabilities of one fold ensemble; the folds are pooled after
it, in the logarithm.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy.optimize import minimize_scalar

from consilia.ensemble.selection import Candidates, Truth, combine, weighted_log_loss
from consilia.plan.frozen import Frozen
from consilia.records import Probabilities
from consilia.scoring.metrics import SMALLEST_PROBABILITY, softmax

POOL_CLIP = 1e-5  # one fold's near-zero may not veto a class
_LOG_TEMPERATURES = (np.log(0.05), np.log(20.0))


class Identity(Frozen):
    """Leaves probabilities as they are."""

    kind: Literal["identity"] = "identity"


class Temperature(Frozen):
    """Divides the logarithm of probabilities by a temperature; above 1 is less sure."""

    kind: Literal["temperature"] = "temperature"
    temperature: float = Field(gt=0)


Calibrator = Annotated[Identity | Temperature, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The calibrator that is kept, and why."""

    calibrator: Identity | Temperature
    reason: str
    loss_before: float  # patient-weighted log loss, out-of-fold
    loss_after: float | None  # cross-fitted; None where nothing was fitted


def calibrate(calibrator: Identity | Temperature, probabilities: Probabilities) -> Probabilities:
    """Return calibrated probabilities (..., n_classes) of the probabilities of one fold ensemble."""
    if isinstance(calibrator, Identity):
        return probabilities
    return softmax(np.log(np.clip(probabilities, SMALLEST_PROBABILITY, 1.0)) / calibrator.temperature)


def pool_folds(calibrator: Identity | Temperature, fold_probabilities: npt.NDArray[np.float64]) -> Probabilities:
    """Return the ensemble's probabilities: calibrated in each fold, then the normalised geometric mean.

    Args:
        calibrator: Applied to each fold ensemble.
        fold_probabilities: q_f(x) of docs/methods.md section 5, (n_folds, n_images, n_classes).

    Returns:
        (n_images, n_classes); rows sum to 1, and the order of the folds is irrelevant.
    """
    if len(fold_probabilities) == 1:
        return calibrate(calibrator, fold_probabilities[0])
    logs = np.log(np.clip(calibrate(calibrator, fold_probabilities), POOL_CLIP, 1.0))
    return softmax(logs.mean(axis=0))


def fit_temperature(probabilities: Probabilities, truth: Truth) -> Temperature:
    """Return the temperature in [0.05, 20] with the lowest patient-weighted log loss.

    Its logarithm is what is optimised: the loss is close to symmetric in it, and no temperature is negative.
    """

    def loss(log_temperature: float) -> float:
        calibrator = Temperature(temperature=float(np.exp(log_temperature)))
        return weighted_log_loss(calibrate(calibrator, probabilities), truth)

    found = minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded", options={"xatol": 1e-5})
    return Temperature(temperature=float(np.exp(found.x)))


def choose_calibrator(kind: Literal["temperature", "none"], probabilities: Probabilities, truth: Truth) -> Calibration:
    """Fit the recipe's calibrator to out-of-fold pairs; keep it only if that lowers the cross-fitted loss.

    Args:
        kind: The recipe's calibration.
        probabilities: Each image by the fold ensemble that never saw it, (n_images, n_classes).
        truth: About the same images.
    """
    before = weighted_log_loss(probabilities, truth)
    if kind == "none":
        reason = "The recipe asks for no calibration."
        return Calibration(calibrator=Identity(), reason=reason, loss_before=before, loss_after=None)
    after = weighted_log_loss(cross_calibrate(probabilities, truth), truth)
    losses = f"cross-fitted log loss {after:.4f}, uncalibrated {before:.4f}"
    if after >= before:
        reason = f"No calibrator is kept: a temperature does not lower the loss ({losses})."
        return Calibration(calibrator=Identity(), reason=reason, loss_before=before, loss_after=after)
    calibrator = fit_temperature(probabilities, truth)
    reason = f"Temperature {calibrator.temperature:.3f} is kept: it lowers the loss ({losses})."
    return Calibration(calibrator=calibrator, reason=reason, loss_before=before, loss_after=after)


def cross_calibrate(probabilities: Probabilities, truth: Truth) -> Probabilities:
    """Return each image's probabilities, (n_images, n_classes), by a temperature fitted without its fold."""
    folds = np.unique(truth.folds)
    return cross_calibrate_members(probabilities[None], np.ones((len(folds), 1)), truth)


def cross_calibrate_members(
    candidates: Candidates, fold_weights: npt.NDArray[np.float64], truth: Truth
) -> Probabilities:
    """Return each image as an ensemble that was selected and calibrated without its fold sees it.

    Args:
        candidates: Out-of-fold probabilities, (n_candidates, n_images, n_classes).
        fold_weights: Of the candidates, selected without each fold, (n_folds, n_candidates).
        truth: About the images.
    """
    result = np.empty(candidates.shape[1:])
    for fold, weights in zip(np.unique(truth.folds), fold_weights, strict=True):
        held_out = truth.folds == fold
        probabilities = combine(candidates, weights)
        calibrator = fit_temperature(probabilities[~held_out], truth.subset(~held_out))
        result[held_out] = calibrate(calibrator, probabilities[held_out])
    return result
