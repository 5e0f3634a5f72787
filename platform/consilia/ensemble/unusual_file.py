"""What usual images look like, as one file of a bundle: plain arrays, no images."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from consilia.ensemble.input_rules import RULES, InputReference
from consilia.ensemble.layout import LAYOUT_SIDE
from consilia.ensemble.unusual import MOST_ROWS, FeatureReference
from consilia.errors import BundleError
from consilia.models.features import MOST_FEATURES

UNUSUAL = "unusual.npz"
_FEATURES = ("mean", "whitening", "distances")
_INPUTS = ("histogram", "layout", "limits")
_MAX_BYTES = 4 * (MOST_FEATURES + LAYOUT_SIDE**2 + 1) ** 2 + 2**20  # unpacked: the whitening, and little else
_DAMAGED = (
    *(OSError, ValueError, KeyError, EOFError, MemoryError, NotImplementedError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UnusualReference:
    """All that tells unusual images."""

    features: FeatureReference
    inputs: InputReference


def write_unusual(path: Path, reference: UnusualReference) -> None:
    """Write the reference to `path`, which ends in .npz."""
    features = {name: getattr(reference.features, name) for name in _FEATURES}
    inputs = {name: getattr(reference.inputs, name) for name in _INPUTS}
    np.savez_compressed(path, allow_pickle=False, **features, **inputs)


def read_unusual(path: Path, *, n_pooled: int) -> UnusualReference:
    """Read what `write_unusual` wrote.

    Args:
        path: The file.
        n_pooled: How many features the reference network gives, by `models.features.count_features`.

    Raises:
        BundleError: The file is missing, damaged, or of another network; names it.
    """
    arrays = _read_arrays(path)
    n_features, n_reference = n_pooled + LAYOUT_SIDE**2, arrays["distances"].size
    expected: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
        "mean": ((n_features,), np.float32),
        "whitening": ((n_features, n_features), np.float32),
        "distances": ((n_reference,), np.float32),
        "histogram": ((256,), np.float64),
        "layout": ((LAYOUT_SIDE, LAYOUT_SIDE), np.float64),
        "limits": ((len(RULES), 2), np.float64),
    }
    for name, (shape, dtype) in expected.items():
        _check(path, name, arrays[name], shape, dtype)
    if not 1 <= n_reference <= MOST_ROWS or (np.diff(arrays["distances"]) < 0).any():
        raise BundleError(f"{path}: `distances` must be 1 to {MOST_ROWS} ascending numbers.")
    return UnusualReference(
        features=FeatureReference(**{name: arrays[name] for name in _FEATURES}),
        inputs=InputReference(**{name: arrays[name] for name in _INPUTS}),
    )


def _read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > _MAX_BYTES:
            raise BundleError(f"{path}: it may take {_MAX_BYTES} bytes, but unpacks to {unpacked}.")
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in (*_FEATURES, *_INPUTS)}
    except _DAMAGED as error:
        raise BundleError(f"{path} cannot be read: {error}. Build the ensemble again.") from error


def _check(path: Path, name: str, array: npt.NDArray[Any], shape: tuple[int, ...], dtype: type[np.generic]) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise BundleError(
            f"{path}: `{name}` must have shape {shape} and type {np.dtype(dtype)}, but has {array.shape} and "
            f"{array.dtype}."
        )
    if np.isnan(array).any() or (name != "limits" and np.isinf(array).any()):  # a rule without a limit has infinity
        raise BundleError(f"{path}: `{name}` must hold numbers, but some are not.")
