"""What turns a fold ensemble's probabilities into honest ones, as a bundle stores it.

A calibrator is fitted to, and applied to, the probabilities of one fold ensemble; the folds are pooled after it, in
the logarithm. `ensemble.calibration` fits and chooses.
Source: docs/methods.md section 5; Guo et al., ICML 2017 (temperature scaling).
"""

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from consilia.config.frozen import Frozen
from consilia.config.records import Probabilities
from consilia.metrics.scores import SMALLEST_PROBABILITY, softmax

POOL_CLIP = 1e-5  # one fold's near-zero may not veto a class


class Identity(Frozen):
    """Leaves probabilities as they are."""

    kind: Literal["identity"] = "identity"


class Temperature(Frozen):
    """Divides the logarithm of probabilities by a temperature; above 1 is less sure."""

    kind: Literal["temperature"] = "temperature"
    temperature: float = Field(gt=0)


class TemperatureBias(Frozen):
    """As `Temperature`, and adds a constant to each class's logarithm: some classes are over-called, others under."""

    kind: Literal["temperature_bias"] = "temperature_bias"
    temperature: float = Field(gt=0)
    biases: tuple[float, ...] = Field(min_length=2)  # one a class, their mean is 0


class Isotonic(Frozen):
    """A non-decreasing, piecewise linear map of the second class's probability; for two classes only."""

    kind: Literal["isotonic"] = "isotonic"
    inputs: tuple[float, ...] = Field(min_length=2)  # strictly ascending
    outputs: tuple[float, ...] = Field(min_length=2)  # never descending, inside (0, 1)

    @model_validator(mode="after")
    def _must_be_a_map(self) -> "Isotonic":
        inputs, outputs = np.array(self.inputs), np.array(self.outputs)
        if len(inputs) != len(outputs):
            raise ValueError(f"inputs and outputs must be pairs, but are {len(inputs)} and {len(outputs)}")
        if not (np.diff(inputs) > 0).all() or not (np.diff(outputs) >= 0).all():
            raise ValueError("inputs must ascend, and outputs must never descend")
        if not (outputs > 0).all() or not (outputs < 1).all():
            raise ValueError("outputs must lie inside (0, 1): nothing is certain")
        return self


AnyCalibrator = Identity | Temperature | TemperatureBias | Isotonic
Calibrator = Annotated[AnyCalibrator, Field(discriminator="kind")]


def calibrate(calibrator: AnyCalibrator, probabilities: Probabilities) -> Probabilities:
    """Return calibrated probabilities (..., n_classes) of the probabilities of one fold ensemble."""
    if isinstance(calibrator, Identity):
        return probabilities
    if isinstance(calibrator, Isotonic):
        second = np.interp(probabilities[..., 1], calibrator.inputs, calibrator.outputs)
        return np.stack([1 - second, second], axis=-1)
    logs = np.log(np.clip(probabilities, SMALLEST_PROBABILITY, 1.0)) / calibrator.temperature
    return softmax(logs + np.array(calibrator.biases) if isinstance(calibrator, TemperatureBias) else logs)


def pool_folds(calibrator: AnyCalibrator, fold_probabilities: npt.NDArray[np.float64]) -> Probabilities:
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
