"""How sure the ensemble says it is: calibrators are fitted, and one is chosen. Source: docs/methods.md section 5.

Out-of-fold probabilities come from one fold's networks, but the predictor has those of k folds. So a calibrator is
fitted to pairs of one fold ensemble's probabilities and labels; `calibrators.pool_folds` pools after it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize, minimize_scalar
from sklearn.isotonic import IsotonicRegression

from consilia.config.recipe import CalibrationKind
from consilia.config.records import Probabilities
from consilia.decision.calibrators import (
    AnyCalibrator,
    Identity,
    Isotonic,
    Temperature,
    TemperatureBias,
    calibrate,
)
from consilia.decision.combination import LinearPool, combine
from consilia.ensemble.selection import Candidates, Truth, weighted_log_loss
from consilia.errors import RunError
from consilia.metrics.patients import BY_PATIENT
from consilia.metrics.scores import SMALLEST_PROBABILITY, image_log_loss, softmax

LEAST_WRONG = 5  # patients with an image that is called wrongly, for any calibrator
LEAST_IMAGES, LEAST_OF_CLASS = 1000, 50  # for a bias of every class
LEAST_POSITIVES = 1000  # for an isotonic map
_LOG_TEMPERATURES = (np.log(0.05), np.log(20.0))
_TITLES = {"temperature": "a temperature", "temperature_bias": "a temperature with biases", "isotonic": "isotonic"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The calibrator that is kept, and why."""

    calibrator: AnyCalibrator
    reason: str
    loss_before: float  # patient-weighted log loss, out-of-fold
    loss_after: float | None  # cross-fitted, of the best calibrator tried; None where nothing was fitted


def choose_calibrator(kind: CalibrationKind, probabilities: Probabilities, truth: Truth) -> Calibration:
    """Fit the recipe's calibrators to out-of-fold pairs; keep the best only if it lowers the cross-fitted loss.

    No calibrator is kept where almost no image is called wrongly: without a mistake the best temperature is the
    smallest that is allowed, and every later image would be called with certainty.

    Args:
        kind: The recipe's calibration. `auto` tries a temperature, and one with biases where the data support them:
            the lowest cross-fitted loss wins, a tie goes to the simpler one.
        probabilities: Each image by the fold ensemble that never saw it, (n_images, n_classes).
        truth: About the same images.

    Raises:
        RunError: The recipe names a calibrator that these data do not support.
    """
    before = weighted_log_loss(probabilities, truth)
    if kind == "none":
        reason = "The recipe asks for no calibration."
        return Calibration(calibrator=Identity(), reason=reason, loss_before=before, loss_after=None)
    if (n_wrong := _count_wrong(probabilities, truth)) < LEAST_WRONG:
        reason = (
            f"No calibrator is kept: {n_wrong} patients have an image that is called wrongly, and with fewer than "
            f"{LEAST_WRONG} it would only say how few images there are."
        )
        return Calibration(calibrator=Identity(), reason=reason, loss_before=before, loss_after=None)
    tried = [each for each in _CANDIDATES[kind] if kind != "auto" or not unsupported(each, probabilities, truth)]
    if reason := unsupported(tried[0], probabilities, truth):
        raise RunError(f"calibration: {kind} {reason} Choose auto or temperature in the recipe.")
    losses = {each: weighted_log_loss(cross_calibrate(each, probabilities, truth), truth) for each in tried}
    best = min(losses, key=lambda each: losses[each])
    found = ", ".join(f"{_TITLES[each]} {loss:.4f}" for each, loss in losses.items())
    measured = f"cross-fitted log loss, {BY_PATIENT}: uncalibrated {before:.4f}, {found}"
    if losses[best] >= before:
        reason = f"No calibrator is kept: none lowers the loss ({measured})."
        return Calibration(calibrator=Identity(), reason=reason, loss_before=before, loss_after=losses[best])
    calibrator = _FITS[best](probabilities, truth)
    reason = f"{_describe(calibrator)} is kept: it lowers the loss ({measured})."
    return Calibration(calibrator=calibrator, reason=reason, loss_before=before, loss_after=losses[best])


def _count_wrong(probabilities: Probabilities, truth: Truth) -> int:
    """Return how many patients have an image whose most probable class is not its own."""
    wrong = probabilities.argmax(axis=1) != truth.labels
    if truth.drawn is not None:
        wrong &= truth.drawn > 0
    return len(np.unique(truth.patients[wrong]))


def unsupported(kind: str, probabilities: Probabilities, truth: Truth) -> str:
    """Return in words why these data cannot support a kind of calibrator, or ""."""
    counts = np.bincount(truth.labels, truth.drawn, minlength=probabilities.shape[1]).astype(np.int64)
    if kind == "temperature_bias" and (counts.sum() < LEAST_IMAGES or counts.min() < LEAST_OF_CLASS):
        return (
            f"needs {LEAST_IMAGES} images and {LEAST_OF_CLASS} of every class, but there are {counts.sum()}, "
            f"and {counts.min()} of the rarest class."
        )
    if kind == "isotonic" and len(counts) != 2:
        return f"needs two classes, but there are {len(counts)}."
    if kind == "isotonic" and counts[1] < LEAST_POSITIVES:
        return f"needs {LEAST_POSITIVES} images of the second class, but there are {counts[1]}."
    return ""


def fit_temperature(probabilities: Probabilities, truth: Truth) -> Temperature:
    """Return the temperature in [0.05, 20] with the lowest patient-weighted log loss.

    Its logarithm is what is optimised: the loss is close to symmetric in it, and no temperature is negative.
    """
    weights = truth.weights  # once: a search asks for the loss about 30 times

    def loss(log_temperature: float) -> float:
        calibrator = Temperature(temperature=float(np.exp(log_temperature)))
        losses = image_log_loss(calibrate(calibrator, probabilities), truth.labels)
        return float(np.average(losses, weights=weights))

    found = minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded", options={"xatol": 1e-5})
    return Temperature(temperature=float(np.exp(found.x)))


def fit_temperature_bias(probabilities: Probabilities, truth: Truth) -> TemperatureBias:
    """Return the temperature in [0.05, 20] and the class biases with the lowest patient-weighted log loss.

    The biases are centred: a constant added to all classes changes nothing.

    Source: Guo et al., ICML 2017, section 4.2 (vector scaling, with one scale for all classes).
    """
    logs = np.log(np.clip(probabilities, SMALLEST_PROBABILITY, 1.0))
    weights = truth.weights / truth.weights.sum()
    true = np.zeros_like(logs)
    true[np.arange(len(logs)), truth.labels] = 1.0

    def loss(parameters: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        scaled = logs * np.exp(-parameters[0])
        found = softmax(scaled + parameters[1:])
        error = (found - true) * weights[:, None]  # of the loss, with respect to the logits
        value = -float(weights @ np.log(np.clip((found * true).sum(axis=1), SMALLEST_PROBABILITY, 1.0)))
        return value, np.array([-(error * scaled).sum(), *error.sum(axis=0)])

    start = np.array([np.log(fit_temperature(probabilities, truth).temperature), *np.zeros(logs.shape[1])])
    bounds = [_LOG_TEMPERATURES, *[(-20.0, 20.0)] * logs.shape[1]]
    found = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B").x
    biases = found[1:] - found[1:].mean()
    return TemperatureBias(temperature=float(np.exp(found[0])), biases=tuple(biases.tolist()))


def fit_isotonic(probabilities: Probabilities, truth: Truth) -> Isotonic:
    """Return the isotonic map with the lowest patient-weighted squared error, for two classes.

    Its ends stay as far from 0 and 1 as one imaginary image more of each class would put them: a stretch of
    images of one class does not make that class certain.

    Source: Zadrozny and Elkan, KDD 2002; fitted by scikit-learn.
    """
    edge = 1.0 / (np.bincount(truth.labels, truth.drawn).sum() + 2)
    fitted = IsotonicRegression(y_min=edge, y_max=1 - edge, out_of_bounds="clip")
    fitted.fit(probabilities[:, 1], truth.labels, sample_weight=truth.weights)
    inputs, outputs = fitted.X_thresholds_.tolist(), fitted.y_thresholds_.tolist()
    if len(inputs) == 1:  # all images have one probability
        inputs, outputs = [inputs[0], np.nextafter(inputs[0], 2.0)], outputs * 2
    return Isotonic(inputs=tuple(inputs), outputs=tuple(outputs))


def cross_calibrate(kind: str, probabilities: Probabilities, truth: Truth) -> Probabilities:
    """Return each image's probabilities, (n_images, n_classes), by a calibrator fitted without its fold."""
    folds = np.unique(truth.folds)
    return cross_calibrate_members(kind, probabilities[None], [LinearPool(weights=(1.0,))] * len(folds), truth)


def cross_calibrate_members(
    kind: str, candidates: Candidates, fold_combinations: Sequence[LinearPool], truth: Truth
) -> Probabilities:
    """Return each image as an ensemble that was selected and calibrated without its fold sees it.

    Args:
        kind: Of the calibrator.
        candidates: Out-of-fold probabilities, (n_candidates, n_images, n_classes).
        fold_combinations: Of the candidates, one a fold, selected without it.
        truth: About the images.
    """
    result = np.empty(candidates.shape[1:])
    for fold, combination in zip(np.unique(truth.folds), fold_combinations, strict=True):
        held_out = truth.folds == fold
        probabilities = combine(candidates, combination)
        calibrator = _FITS[kind](probabilities[~held_out], truth.subset(~held_out))
        result[held_out] = calibrate(calibrator, probabilities[held_out])
    return result


_FITS: Mapping[str, Callable[[Probabilities, Truth], AnyCalibrator]] = {
    "identity": lambda probabilities, truth: Identity(),
    "temperature": fit_temperature,
    "temperature_bias": fit_temperature_bias,
    "isotonic": fit_isotonic,
}
_CANDIDATES: Mapping[CalibrationKind, tuple[str, ...]] = {
    "auto": ("temperature", "temperature_bias"),
    "temperature": ("temperature",),
    "temperature_bias": ("temperature_bias",),
    "isotonic": ("isotonic",),
}


def _describe(calibrator: AnyCalibrator) -> str:
    if isinstance(calibrator, Isotonic):
        return f"An isotonic map of {len(calibrator.inputs)} points"
    if isinstance(calibrator, TemperatureBias):
        biases = ", ".join(f"{bias:+.3f}" for bias in calibrator.biases)
        return f"Temperature {calibrator.temperature:.3f} with the class biases {biases}"
    return f"Temperature {calibrator.temperature:.3f}" if isinstance(calibrator, Temperature) else "No calibrator"
