"""MedMNIST-style archives: `<split>_images` and `<split>_labels` in one .npz file."""

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from consilia.config.card import DataCard, NpzSource
from consilia.data.sources.listing import SPLITS, Entry, ImageTable, make_table
from consilia.errors import DataError

_UNREADABLE = (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)


def list_npz(card: DataCard, source: NpzSource, path: Path) -> ImageTable:
    """List the images of an archive: train, then val, then test, each in its own order.

    Classes are the card's, which the label numbers count from 0, or else the sorted numbers as text.

    Raises:
        DataError: `path` is not an .npz archive, its arrays do not fit each other, its images do not have the card's
            size (unless `resize` allows that they are fitted to it), or the card asks for patients or frames.
    """
    if card.group == "patient":
        raise DataError(f"Card {card.name!r}: {source.file} names no patients, so its card must say `group: none`.")
    if card.frames != "single":
        raise DataError(f"Card {card.name!r}: an archive has no frames; remove `frames: {card.frames}`.")
    numbers = {split: _labels(path, split, source) for split in _splits(path)}
    for split, found in numbers.items():
        n_images, height, width, *_ = _shape(path, f"{split}_images")
        if n_images != len(found):
            raise DataError(f"{path}: {split}_images holds {n_images} images, but {split}_labels {len(found)} labels.")
        if max(height, width) != card.size and not source.resize:
            raise DataError(
                f"{path}: {split}_images are {height} x {width} pixels, but card {card.name!r} stores {card.size}. Say "
                f"--set size={max(height, width)}, or, to have them resized, --set source.resize=true "
                "(in a study: data.size, data.source.resize)."
            )
    present = sorted({int(number) for found in numbers.values() for number in np.unique(found)})
    classes = card.classes or tuple(str(number) for number in present)
    name_of = dict(enumerate(card.classes)) if card.classes else {number: str(number) for number in present}
    entries = [
        Entry(file=f"{split}_images[{i}]", label=name_of.get(int(number), str(number)), split=split)
        for split, found in numbers.items()
        for i, number in enumerate(found)
    ]
    return make_table(card, entries, root=path, origin=path, classes=classes)


def image_shape(path: Path) -> tuple[int, int, int]:
    """Return height, width and channels of an archive's images, by the header of its first split.

    Raises:
        DataError: It is not an .npz archive of images.
    """
    _, height, width, *channels = _shape(path, f"{_splits(path)[0]}_images")
    return height, width, channels[0] if channels else 1


def read_blocks(path: Path, *, rows: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Read the images of an archive in the order of `list_npz`, a block at a time.

    Args:
        path: The .npz file.
        rows: Images in a block, at most.

    Returns:
        Blocks of (rows, h, w) or (rows, h, w, c); the images of a block are from one split.

    Raises:
        DataError: The archive is damaged.
    """
    for split in _splits(path):
        with zipfile.ZipFile(path) as archive, archive.open(f"{split}_images.npy") as member:
            n_images, *shape = _read_header(member, path, f"{split}_images")
            size = int(np.prod(shape))
            for start in range(0, n_images, rows):
                count = min(rows, n_images - start)
                yield np.frombuffer(_read(member, count * size, path), np.uint8).reshape(count, *shape)


def _splits(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            keys = {name.removesuffix(".npy") for name in archive.namelist()}
    except _UNREADABLE as error:
        raise DataError(f"{path} is not an .npz archive that can be read: {error}.") from error
    known = {f"{split}_{part}" for split in SPLITS for part in ("images", "labels")}
    strange = sorted(key for key in keys - known if key.endswith(("_images", "_labels")))
    if strange:
        raise DataError(f"{path}: splits must be train, val or test, but it holds {strange}.")
    for key in sorted(keys & known):
        split, part = key.split("_")
        partner = f"{split}_{'labels' if part == 'images' else 'images'}"
        if partner not in keys:
            raise DataError(f"{path} holds {key} but no {partner}.")
    splits = [split for split in SPLITS if f"{split}_images" in keys]
    if not splits:
        raise DataError(f"{path} must hold train_images and train_labels, but its keys are {sorted(keys)}.")
    return splits


def _labels(path: Path, split: str, source: NpzSource) -> npt.NDArray[np.integer]:
    key = f"{split}_labels"
    try:
        with np.load(path, allow_pickle=False) as archive:
            labels: npt.NDArray[np.integer] = archive[key]
    except _UNREADABLE as error:
        raise DataError(f"{path}: {key} cannot be read: {error}.") from error
    if source.multilabel == "any":
        return _any(labels, path, key)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        several = labels.ndim == 2 and " `source.multilabel: any` makes one of several findings two classes: none, any."
        raise DataError(
            f"{path}: {key} must be whole numbers of shape (n,) or (n, 1), one class an image, "
            f"but is {labels.dtype} {labels.shape}.{several or ''}"
        )
    return labels


def _any(labels: npt.NDArray[np.integer], path: Path, key: str) -> npt.NDArray[np.integer]:
    """Return 1 for images with any finding, 0 for those with none."""
    fits = labels.ndim == 2 and labels.shape[1] > 1 and np.issubdtype(labels.dtype, np.integer)
    if not fits or not np.isin(labels, (0, 1)).all():
        raise DataError(
            f"{path}: with `multilabel: any`, {key} must be 0 and 1 of shape (n, findings), but is {labels.dtype} "
            f"{labels.shape}{' with other values' if fits else '; remove `multilabel`'}."
        )
    return np.asarray(labels.any(axis=1), dtype=np.int64)


def _shape(path: Path, key: str) -> tuple[int, ...]:
    with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as member:
        return _read_header(member, path, key)


def _read_header(member: IO[bytes], path: Path, key: str) -> tuple[int, ...]:
    """Check the header of an array of images; the stream then stands at the first pixel."""
    try:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(member)
    except _UNREADABLE as error:
        raise DataError(f"{path}: {key} cannot be read: {error}.") from error
    fits = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
    if dtype != np.uint8 or not fits or fortran_order:
        raise DataError(
            f"{path}: {key} must be uint8 of shape (n, h, w) or (n, h, w, 3) in C order, but is {dtype} {shape}."
        )
    return tuple(shape)


def _read(member: IO[bytes], n_bytes: int, path: Path) -> bytes:
    try:
        data = member.read(n_bytes)
    except _UNREADABLE as error:
        raise DataError(f"{path} is damaged at {member.name}: {error}. Download it again.") from error
    if len(data) != n_bytes:
        raise DataError(f"{path} is damaged: {member.name} ends early. Download it again.")
    return data
