"""The image store: a data set decoded once, memory-mapped, with its index and its manifest."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from consilia.errors import DataError
from consilia.files import write_json
from consilia.records import Labels

SCHEMA_VERSION = 1
PIXELS, INDEX, MANIFEST = "pixels.npy", "index.parquet", "manifest.json"
COLUMNS = ("image_id", "file", "patient_id", "label", "split", "mean", "mean_square", "pixel_digest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """A file that could not be read, and why."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a store holds."""

    schema_version: int
    card: str  # name of the data card
    classes: tuple[str, ...]  # in label order
    size: int  # side of every image, pixels
    channels: int
    n_images: int
    digest: str  # of content: pixels, labels, patients, splits, classes; not of file names or places
    has_patients: bool  # False: each image is its own patient
    quarantine: tuple[Quarantined, ...] = ()

    def write(self, path: Path) -> None:
        """Write JSON that `read_manifest` reads back."""
        write_json(path, asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageStore:
    """A prepared data set; nothing in it may be changed.

    `index` has one row an image: image_id (0 ... n-1), file, patient_id, label, split ("train", "val", "test"
    or ""), mean and mean_square (of pixel / 255), pixel_digest (equal exactly for equal pixels).
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


def content_digest(index: pd.DataFrame, *, classes: tuple[str, ...], size: int, channels: int) -> str:
    """Return the SHA-256 of what a store holds, whatever its files are called and wherever they lie."""
    state = hashlib.sha256(json.dumps([SCHEMA_VERSION, list(classes), size, channels]).encode())
    columns = (index[name].tolist() for name in ("label", "patient_id", "split", "pixel_digest"))
    for column in columns:
        state.update(json.dumps(column).encode())
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
        content["classes"] = tuple(content["classes"])
        content["quarantine"] = tuple(Quarantined(**entry) for entry in content["quarantine"])
        return Manifest(**content)
    except FileNotFoundError as error:
        raise DataError(f"{path.parent} is no image store: {path.name} is missing. {_AGAIN}") from error
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(f"{path} is damaged: {error}. {_AGAIN}") from error


_AGAIN = "Delete the folder and prepare the data again."


def _read_index(path: Path, manifest: Manifest) -> pd.DataFrame:
    try:
        index = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is missing or damaged: {error}. {_AGAIN}") from error
    if tuple(index.columns) != COLUMNS or len(index) != manifest.n_images:
        raise DataError(
            f"{path} must hold {manifest.n_images} rows of {list(COLUMNS)}, "
            f"but holds {len(index)} rows of {list(index.columns)}. {_AGAIN}"
        )
    digest = content_digest(index, classes=manifest.classes, size=manifest.size, channels=manifest.channels)
    if digest != manifest.digest:
        raise DataError(f"{path} does not have the digest that the manifest names. {_AGAIN}")
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
