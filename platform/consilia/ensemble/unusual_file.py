"""What usual images look like, as one file of a bundle: plain arrays, no images."""

import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from consilia.ensemble.input_rules import RULES, InputReference
from consilia.ensemble.layout import LAYOUT_SIDE
from consilia.ensemble.unusual import MOST_ROWS, FeatureReference, Normal
from consilia.errors import BundleError
from consilia.models.features import MOST_FEATURES

UNUSUAL = "unusual.npz"
_VIEWS = ("network", "cells")
_INPUTS = ("histogram", "layout", "limits")
_MAX_BYTES = 4 * MOST_FEATURES**2 + 2**20  # unpacked: the network's whitening, and little else
_DAMAGED = (
    *(OSError, ValueError, KeyError, EOFError, MemoryError, NotImplementedError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UnusualReference:
    """All that tells unusual images."""

    features: FeatureReference
    inputs: InputReference


def write_unusual(path: Path, reference: UnusualReference) -> None:
    """Write the reference to `path`, which ends in .npz.

    Arrays: the mean and whitening of each view, `units`, `distances`; `histogram`, `layout` and `limits` of the rules.
    """
    features, inputs = reference.features, reference.inputs
    arrays: Arrays = {"units": features.units, "distances": features.distances}
    for view, normal in zip(_VIEWS, features.normals, strict=True):
        arrays |= {f"{view}_mean": normal.mean, f"{view}_whitening": normal.whitening}
    arrays |= {name: getattr(inputs, name) for name in _INPUTS}
    np.savez_compressed(path, allow_pickle=False, **arrays)


def read_unusual(path: Path, *, n_pooled: int) -> UnusualReference:
    """Read what `write_unusual` wrote.

    Args:
        path: The file.
        n_pooled: How many features the reference network gives, by `models.features.count_features`.

    Raises:
        BundleError: The file is missing, damaged, or of another network; names it.
    """
    shapes = _shapes(n_pooled)
    arrays = _read_arrays(path, (*shapes, "distances"))
    distances = arrays["distances"]
    shapes["distances"] = (distances.size,), np.float32
    for name, (shape, dtype) in shapes.items():
        _check(path, name, arrays[name], shape, dtype)
    if not 1 <= distances.size <= MOST_ROWS or (np.diff(distances) < 0).any():
        raise BundleError(f"{path}: `distances` must be 1 to {MOST_ROWS} ascending numbers.")
    if (arrays["units"] <= 0).any():
        raise BundleError(f"{path}: `units` must be positive.")
    normals = tuple(Normal(mean=arrays[f"{view}_mean"], whitening=arrays[f"{view}_whitening"]) for view in _VIEWS)
    return UnusualReference(
        features=FeatureReference(normals=normals, units=arrays["units"], distances=distances),
        inputs=InputReference(**{name: arrays[name] for name in _INPUTS}),
    )


def _shapes(n_pooled: int) -> dict[str, tuple[tuple[int, ...], type[np.generic]]]:
    """Shape and type of every array but the distances, of which there may be any number."""
    sizes = dict(zip(_VIEWS, (n_pooled, LAYOUT_SIDE**2), strict=True))
    return {
        **{f"{view}_mean": ((size,), np.float32) for view, size in sizes.items()},
        **{f"{view}_whitening": ((size, size), np.float32) for view, size in sizes.items()},
        "units": ((len(_VIEWS),), np.float32),
        "histogram": ((256,), np.float64),
        "layout": ((LAYOUT_SIDE, LAYOUT_SIDE), np.float64),
        "limits": ((len(RULES), 2), np.float64),
    }


def _read_arrays(path: Path, names: Iterable[str]) -> Arrays:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > _MAX_BYTES:
            raise BundleError(f"{path}: it may take {_MAX_BYTES} bytes, but unpacks to {unpacked}.")
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in names}
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
