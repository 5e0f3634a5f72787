"""Patients as the unit that counts: their images share one vote."""

import numpy as np
import numpy.typing as npt

from consilia.config.records import Probabilities

_CLIP = 1e-5  # so that one image's near-zero cannot veto a class
FEWEST_PATIENTS = 30  # for a claim about them
BY_IMAGE = "every image weighs the same"
BY_PATIENT = "every patient weighs the same"
"""What the head of a table says of its numbers; no table mixes them."""


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


def count_in_words(images: int, patients: int) -> str:
    """Say how many images of how many patients; where no patient has two, patients may be unknown."""
    if images == patients:
        return f"{images:,} images, each taken as a patient of its own"
    return f"{images:,} images of {patients:,} patients"


def pool_images(
    probabilities: Probabilities, patients: npt.NDArray[np.str_]
) -> tuple[npt.NDArray[np.str_], Probabilities]:
    """Return the patients, (n_patients,) in ascending order, and what all images of each say, (n_patients, n_classes).

    The normalised geometric mean: images of one patient are not independent evidence, so their logarithms are averaged
    and not added, which would grow ever surer with the number of exposures. The order of images is irrelevant.

    Args:
        probabilities: Calibrated, (n_images, n_classes).
        patients: Of each image, (n_images,); or whatever else is to be judged as one, such as the study.

    Source: docs/methods.md section 8.
    """
    from scipy.special import softmax  # takes half a second, which a listing of trials does not need

    names, numbers = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    logs = np.log(np.clip(probabilities, _CLIP, 1.0))
    sums = np.zeros((len(names), probabilities.shape[1]))
    np.add.at(sums, numbers, logs)
    pooled: Probabilities = softmax(sums / np.bincount(numbers)[:, None], axis=1)
    return names, pooled
