"""The calibration of prediction sets as a file of a bundle: sorted scores, no names of images or patients."""

from pathlib import Path

import numpy as np

from consilia.bundle.arrays import read_arrays
from consilia.decision.conformal import CalibrationScores, from_arrays, to_arrays
from consilia.errors import BundleError

SETS = "sets.npz"
_LAYOUTS: dict[str, tuple[tuple[int | None, ...], type]] = {
    "alpha": ((), np.float64),
    "n_folds": ((), np.int64),
    "patients": ((None,), np.int64),
    "starts": ((None,), np.int64),
    "scores": ((None,), np.float64),
    "masses": ((None,), np.float64),
}


def write_sets(path: Path, calibration: CalibrationScores) -> None:
    """Write the calibration to `path`, which ends in .npz."""
    np.savez_compressed(path, allow_pickle=False, **to_arrays(calibration))


def read_sets(path: Path, *, n_folds: int, n_classes: int) -> CalibrationScores:
    """Read what `write_sets` wrote.

    Raises:
        BundleError: The file is missing, damaged, or of another ensemble; names it.
    """
    arrays = read_arrays(path, _LAYOUTS)
    try:
        calibration = from_arrays(arrays)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error
    if (calibration.n_folds, calibration.n_classes) != (n_folds, n_classes):
        raise BundleError(
            f"{path} must be for {n_folds} folds and {n_classes} classes, but is for {calibration.n_folds} and "
            f"{calibration.n_classes}."
        )
    return calibration
