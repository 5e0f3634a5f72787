"""The image store: a data set decoded once, memory-mapped, with its index and its manifest."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from consilia.config.frozen import Frozen
from consilia.config.reading import ImageKind, Reading
from consilia.config.records import Labels, Rows
from consilia.data.sources.listing import LeftOut, Quarantined
from consilia.errors import DataError
from consilia.files import write_json

SCHEMA_VERSION: Literal[2] = 2
PIXELS, INDEX, MANIFEST = "pixels.npy", "index.parquet", "manifest.json"
COLUMNS = (
    *("image_id", "file", "frame", "patient_id", "label", "split"),
    *("mean", "mean_square", "pixel_digest", "perceptual_hash"),
    *("kind", "format", "mode", "width", "height"),
)
_ROWS = 10_000  # encoded at a time
META, TAG = "meta_", "tag_"  # before the names of columns that come from the table, and from DICOM tags
_AGAIN = "Delete the folder and prepare the data again."


class Manifest(Frozen):
    """What a store holds, and how its images were read."""

    schema_version: Literal[2] = SCHEMA_VERSION
    card: str  # name of the data card
    classes: tuple[str, ...]  # in label order
    reading: Reading  # the same for every image, and for those that are predicted later
    kinds: tuple[ImageKind, ...]  # of the files that were read, sorted
    n_images: int
    digest: str  # of pixels, reading, labels, patients, splits and classes; not of file names or places
    has_patients: bool  # False: each image is its own patient
    left_out: tuple[LeftOut, ...] = ()
    quarantine: tuple[Quarantined, ...] = ()

    @property
    def size(self) -> int:
        """Side of every image, pixels."""
        return self.reading.size

    @property
    def channels(self) -> int:
        """Number of channels of every image."""
        return self.reading.channels

    def write(self, path: Path) -> None:
        """Write JSON that `read_manifest` reads back."""
        write_json(path, self.model_dump(mode="json"))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageStore:
    """A prepared data set; nothing in it may be changed.

    `index` has one row an image: image_id (0 ... n-1), file, frame (of a file with several, else 0), patient_id,
    label, split ("train", "val", "test" or ""), mean and mean_square (of pixel / 255), pixel_digest (equal exactly
    for equal pixels), perceptual_hash (64 bits, close for pictures that look alike); of the file kind ("dicom" or
    "raster"), format ("PNG"), mode ("I;16"), width and height in pixels; then, as text, the table's other columns
    (`meta_site`) and, of DICOM, some tags (`tag_Laterality`), "" where one is absent.
    """

    folder: Path
    pixels: npt.NDArray[np.uint8]  # (n, size, size, channels), read-only memory map
    index: pd.DataFrame
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> "ImageStore":
        """Open a store that `prepare` has written; the pixels stay on disk.

        Raises:
            DataError: A file is missing, damaged, not of the size in the manifest, or of a newer schema.
        """
        manifest = read_manifest(folder / MANIFEST)
        index = _read_index(folder / INDEX, manifest)
        pixels = _map_pixels(folder / PIXELS, manifest)
        return cls(folder=folder, pixels=pixels, index=index, manifest=manifest)

    def __len__(self) -> int:
        return self.manifest.n_images

    @property
    def digest(self) -> str:
        """SHA-256 of the content."""
        return self.manifest.digest

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in label order."""
        return self.manifest.classes

    @property
    def labels(self) -> Labels:
        """Class number of each image, (n,)."""
        return self.index["label"].to_numpy(np.int64)

    @property
    def patients(self) -> npt.NDArray[np.str_]:
        """Patient of each image, (n,)."""
        return self.index["patient_id"].to_numpy().astype(np.str_)


def content_digest(index: pd.DataFrame, *, classes: tuple[str, ...], reading: Reading) -> str:
    """Return the SHA-256 of what a store holds; names and places of its files do not count."""
    state = hashlib.sha256(json.dumps([SCHEMA_VERSION, list(classes), reading.model_dump(mode="json")]).encode())
    for name in ("label", "patient_id", "split", "pixel_digest"):
        _hash_column(state, index[name])
    return state.hexdigest()


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest.

    Raises:
        DataError: The file is missing, damaged or of another schema version.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = content["schema_version"]
        if version != SCHEMA_VERSION:
            raise DataError(
                f"{path} has schema version {version}, but this consilia reads {SCHEMA_VERSION}. "
                "Prepare the data again with this version."
            )
        return Manifest.model_validate(content)
    except FileNotFoundError as error:
        raise DataError(f"{path.parent} is not an image store: {path.name} is missing. {_AGAIN}") from error
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(f"{path} is damaged: {error}. {_AGAIN}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Intensity:
    """Mean and standard deviation of pixel / 255, over all channels."""

    mean: float
    std: float


def intensity(store: ImageStore, rows: Rows) -> Intensity:
    """Return the mean and standard deviation of the pixels of `rows` alone.

    All images have one size, so the moments of the set are the means of their moments: no pixel is read.

    Args:
        store: The data set.
        rows: Row numbers, (m,); those that a model is trained on.

    Raises:
        DataError: No rows, or every pixel has one and the same value.
    """
    if len(rows) == 0:
        raise DataError(f"{store.folder}: intensity statistics need at least one image, but got none.")
    chosen = store.index.iloc[rows]
    mean = float(chosen["mean"].mean())
    variance = float(chosen["mean_square"].mean()) - mean**2
    if variance < 1e-10:  # below the square of a 65535th of the range: rounding, not contrast
        raise DataError(f"{store.folder}: all {len(rows)} images hold one and the same grey, {mean:.3f} of white.")
    return Intensity(mean=mean, std=float(np.sqrt(variance)))


def _hash_column(state: "hashlib._Hash", column: "pd.Series[Any]") -> None:
    """Add the column as a JSON list, without holding all of its text in memory."""
    state.update(b"[")
    for start in range(0, len(column), _ROWS):
        text = json.dumps(column.iloc[start : start + _ROWS].tolist())[1:-1]
        state.update((f", {text}" if start else text).encode())
    state.update(b"]")


def _read_index(path: Path, manifest: Manifest) -> pd.DataFrame:
    try:
        index = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is missing or damaged: {error}. {_AGAIN}") from error
    if tuple(index.columns[: len(COLUMNS)]) != COLUMNS or len(index) != manifest.n_images:
        raise DataError(
            f"{path} must hold {manifest.n_images} rows of {list(COLUMNS)}, "
            f"but holds {len(index)} rows of {list(index.columns)}. {_AGAIN}"
        )
    digest = content_digest(index, classes=manifest.classes, reading=manifest.reading)
    if digest != manifest.digest:
        raise DataError(f"{path} does not match the digest in the manifest. {_AGAIN}")
    return index


def _map_pixels(path: Path, manifest: Manifest) -> npt.NDArray[np.uint8]:
    try:
        pixels: npt.NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is missing or damaged: {error}. {_AGAIN}") from error
    shape = (manifest.n_images, manifest.size, manifest.size, manifest.channels)
    if pixels.shape != shape or pixels.dtype != np.uint8:
        raise DataError(f"{path} must be uint8 {shape}, but is {pixels.dtype} {pixels.shape}. {_AGAIN}")
    return pixels
