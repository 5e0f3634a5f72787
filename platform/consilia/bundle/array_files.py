"""The array files of a bundle: plain numbers, no images and no names of images or patients.

`sets.npz` calibrates the prediction sets, by sorted scores. `unusual.npz` says what usual images look like: of at most
2,000 training images it holds statistics, among them the mean brightness of 8 x 8 cells, and no picture. `seen.npy`
holds fingerprints of the training images, so that an ensemble is never measured on them. A fingerprint is 64 bits of
the SHA-256 of an image's stored pixels: it names an image to someone who has it, and shows nothing to anybody else.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from consilia.bundle.arrays import Layout, read_array, read_arrays
from consilia.decision.ood.distance import MOST_ROWS, PictureReference
from consilia.decision.ood.inputs import LAYOUT_SIDE, RULES, InputReference
from consilia.decision.ood.picture import N_FEATURES, PARTS
from consilia.decision.sets import CalibrationScores, from_arrays, to_arrays
from consilia.errors import BundleError

SETS, OOD, SEEN = "sets.npz", "unusual.npz", "seen.npy"
Arrays = dict[str, npt.NDArray[Any]]
Fingerprints = npt.NDArray[np.uint64]  # (n,)

_SETS_LAYOUTS: dict[str, Layout] = {
    "alpha": ((), np.float64),
    "n_folds": ((), np.int64),
    "patients": ((None,), np.int64),
    "starts": ((None,), np.int64),
    "scores": ((None,), np.float64),
    "masses": ((None,), np.float64),
}
_PICTURES = ("mean", "scale", "images", "usual", "distances")
_MOST = 1e9  # far from what any image gives, and from where squares overflow
_ROUNDING = 1e-6  # of a mean of shares, which may end just above 1
_INPUTS = ("histogram", "layout", "limits")


def write_sets(path: Path, calibration: CalibrationScores) -> None:
    """Write the calibration to `path`, which ends in .npz."""
    np.savez_compressed(path, allow_pickle=False, **to_arrays(calibration))


def read_sets(path: Path, *, n_folds: int, n_classes: int) -> CalibrationScores:
    """Read what `write_sets` wrote.

    Raises:
        BundleError: The file is missing, damaged, or of another ensemble; names it.
    """
    arrays = read_arrays(path, _SETS_LAYOUTS)
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OodReference:
    """All that tells unusual images."""

    pictures: PictureReference
    inputs: InputReference


def write_ood(path: Path, reference: OodReference) -> None:
    """Write the reference to `path`, which ends in .npz.

    Arrays: those of `PictureReference`, and those of `InputReference`.
    """
    arrays: Arrays = {name: getattr(reference.pictures, name) for name in _PICTURES}
    arrays |= {name: getattr(reference.inputs, name) for name in _INPUTS}
    ordered = {name: np.ascontiguousarray(array) for name, array in arrays.items()}  # as they are read
    np.savez_compressed(path, allow_pickle=False, **ordered)


def read_ood(path: Path) -> OodReference:
    """Read what `write_ood` wrote.

    Raises:
        BundleError: The file is missing or damaged; names it.
    """
    arrays = read_arrays(path, _OOD_LAYOUTS)
    _check_numbers(path, arrays)
    distances = arrays["distances"]
    if not 2 <= distances.size <= MOST_ROWS or (np.diff(distances) < 0).any():
        raise BundleError(f"{path}: `distances` must be 2 to {MOST_ROWS} ascending numbers.")
    if len(arrays["images"]) != distances.size:
        raise BundleError(
            f"{path}: `images` and `distances` must be of as many images, but are of {len(arrays['images']):,} and "
            f"{distances.size:,}."
        )
    if (arrays["usual"] <= 0).any():
        raise BundleError(f"{path}: `usual` must be positive.")
    return OodReference(
        pictures=PictureReference(**{name: arrays[name] for name in _PICTURES}),
        inputs=InputReference(**{name: arrays[name] for name in _INPUTS}),
    )


_OOD_LAYOUTS: dict[str, Layout] = {
    "mean": ((N_FEATURES,), np.float32),
    "scale": ((N_FEATURES,), np.float32),
    "images": ((None, N_FEATURES), np.float32),
    "usual": ((len(PARTS),), np.float64),
    "distances": ((None,), np.float64),
    "histogram": ((256,), np.float64),
    "layout": ((LAYOUT_SIDE, LAYOUT_SIDE), np.float64),
    "limits": ((len(RULES), 2), np.float64),
}


def _check_numbers(path: Path, arrays: Arrays) -> None:
    for name, array in arrays.items():
        if np.isnan(array).any() or (name != "limits" and np.isinf(array).any()):  # a rule without a limit has infinity
            raise BundleError(f"{path}: {name} must hold numbers, but some are not.")
    for name, least, most in (
        *(("mean", -_MOST, _MOST), ("scale", 1 / _MOST, _MOST), ("images", -_MOST, _MOST)),
        *(("histogram", 0, 1), ("layout", -LAYOUT_SIDE, LAYOUT_SIDE)),
    ):
        if not arrays[name].size or arrays[name].min() < least or arrays[name].max() > most + _ROUNDING:
            raise BundleError(f"{path}: {name} must lie in {least} ... {most}.")


def write_seen(path: Path, seen: Fingerprints) -> None:
    """Write the fingerprints of the training images, sorted: their order would tell which belong together."""
    np.save(path, np.unique(seen), allow_pickle=False)


def read_seen(path: Path) -> Fingerprints:
    """Read what `write_seen` wrote.

    Raises:
        BundleError: The file is missing or damaged.
    """
    seen: Fingerprints = read_array(path, ((None,), np.uint64))
    return seen
