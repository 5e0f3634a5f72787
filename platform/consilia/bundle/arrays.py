"""Reading arrays that somebody else may have written: a header may claim gigabytes, or announce a pickle."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from consilia.errors import BundleError

MOST_BYTES = 256 * 2**20  # of one array: a few kilobytes may unpack to any number of zeros
_DAMAGED = (
    *(OSError, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)

Layout = tuple[tuple[int | None, ...], type[Any]]
"""Shape and type of an array; a side that is None may have any length that the file has bytes for."""


def read_arrays(path: Path, layouts: Mapping[str, Layout]) -> dict[str, npt.NDArray[Any]]:
    """Read the named arrays of an .npz file; what else it holds is not read.

    Args:
        path: Of the file.
        layouts: What each array must be.

    Raises:
        BundleError: The file is damaged, or an array is missing or of another shape or type; names the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: _read(archive, name, layout) for name, layout in layouts.items()}
    except _DAMAGED as error:
        raise BundleError(f"{path} must hold the arrays that consilia wrote, but: {error}") from error


def read_array(path: Path, layout: Layout) -> npt.NDArray[Any]:
    """Read the one array of an .npy file.

    Raises:
        BundleError: As of `read_arrays`.
    """
    try:
        with path.open("rb") as file:
            return _check_and_read(file, path.stat().st_size, path.name, layout)
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{path} must hold the array that consilia wrote, but: {error}") from error


def _read(archive: zipfile.ZipFile, name: str, layout: Layout) -> npt.NDArray[Any]:
    entry = archive.getinfo(f"{name}.npy")
    with archive.open(entry) as file:
        return _check_and_read(file, entry.file_size, name, layout)


def _check_and_read(file: IO[bytes], size: int, name: str, layout: Layout) -> npt.NDArray[Any]:
    version = np.lib.format.read_magic(file)
    if version != (1, 0):  # what numpy writes for plain numbers
        raise ValueError(f"{name} is of version {version}")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    wanted, kind = layout
    fits = len(shape) == len(wanted) and all(w in (None, s) for s, w in zip(shape, wanted, strict=True))
    if not fits or dtype != np.dtype(kind) or is_fortran:
        sides = ", ".join("any" if side is None else str(side) for side in wanted)
        raise ValueError(f"{name} must have shape ({sides}) and type {np.dtype(kind)}, but has {shape} and {dtype}")
    n_bytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if n_bytes > MOST_BYTES:
        raise ValueError(f"{name} may have {MOST_BYTES} bytes, but has {n_bytes}")
    if n_bytes > size:  # nothing is reserved for what cannot be there
        raise ValueError(f"{name} says that it has {n_bytes} bytes, but the file is too small for them")
    content = file.read(n_bytes)
    if len(content) < n_bytes:
        raise ValueError(f"{name} must have {n_bytes} bytes, but the file is too small: it ends after {len(content)}")
    return np.frombuffer(content, dtype=dtype).reshape(shape).copy()
