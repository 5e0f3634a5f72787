"""Probabilities for a population in which diseases are more or less common than in training."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from consilia.config.records import Labels, Probabilities
from consilia.errors import UserError
from consilia.metrics.patients import patient_weights


def prevalence_of(labels: Labels, patients: npt.NDArray[np.str_], n_classes: int) -> npt.NDArray[np.float64]:
    """Return each class's share, (n_classes,), where every patient weighs 1: what calibration is fitted to."""
    shares = np.bincount(labels, weights=patient_weights(patients), minlength=n_classes)
    result: npt.NDArray[np.float64] = shares / shares.sum()
    return result


def read_prevalence(given: Mapping[str, float], classes: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return a prevalence by class name as an array in the order of the classes, (n_classes,).

    One class may be left out: it has the rest.

    Raises:
        UserError: An unknown class, more than one left out, a share outside (0, 1), or a sum other than 1.
    """
    if unknown := sorted(set(given) - set(classes)):
        raise UserError(f"prevalence must name classes of {', '.join(classes)}, but names {', '.join(unknown)}.")
    shares = {name: float(share) for name, share in given.items()}
    missing = [name for name in classes if name not in shares]
    if len(missing) > 1:
        raise UserError(f"prevalence must give all classes but one, but lacks {', '.join(missing)}.")
    if missing:
        shares[missing[0]] = 1 - sum(shares.values())
    for name, share in shares.items():
        if not 0 < share < 1:
            raise UserError(
                f"prevalence of {name} must lie between 0 and 1, but is {share:g}: a class that never occurs, or "
                "always, needs no model."
            )
    if not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
        raise UserError(f"prevalence must sum to 1, but sums to {sum(shares.values()):g}.")
    return np.array([shares[name] for name in classes])


def correct_prior(
    probabilities: Probabilities, *, trained: npt.NDArray[np.float64], deployed: npt.NDArray[np.float64]
) -> Probabilities:
    """Return the probabilities, (n_images, n_classes), under another prevalence of the classes.

    Right where images of a class look the same in both populations and only their number differs (label shift); a
    different scanner or spectrum of disease is not mended by it.

    Args:
        probabilities: Calibrated to the training population.
        trained: Prevalence there, (n_classes,).
        deployed: Prevalence where the predictor is used, (n_classes,).

    Source: Saerens, Latinne and Decaestecker, Neural Computation 2002, equation 2.4; docs/methods.md section 5.
    """
    weighted = probabilities * (deployed / trained)
    result: Probabilities = weighted / weighted.sum(axis=-1, keepdims=True)
    return result
