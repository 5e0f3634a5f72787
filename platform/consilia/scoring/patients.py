"""Patients as the unit that counts: their images share one vote."""

import numpy as np
import numpy.typing as npt

FEWEST_PATIENTS = 30  # for a claim about them


def patient_weights(patients: npt.NDArray[np.str_]) -> npt.NDArray[np.float64]:
    """Return 1 / (images of its patient) for each image, (n_images,): every patient weighs 1 in all.

    Source: docs/methods.md section 4.
    """
    numbers, _ = patient_numbers(patients)
    weights: npt.NDArray[np.float64] = 1.0 / np.bincount(numbers)[numbers]
    return weights


def patient_numbers(patients: npt.NDArray[np.str_]) -> tuple[npt.NDArray[np.int64], int]:
    """Return each image's patient as a number 0 ... P-1, (n_images,), and P."""
    names, numbers = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    return numbers.astype(np.int64), len(names)
