"""Fingerprints of the images that an ensemble was trained on, so that it is never measured on them.

A fingerprint is 64 bits of the SHA-256 of an image's stored pixels: it names an image to someone who has it, and
shows nothing to someone who has not.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from consilia.bundle.arrays import read_array
from consilia.config.records import Rows
from consilia.data.store.image_store import ImageStore
from consilia.errors import DataError

SEEN = "seen.npy"
Fingerprints = npt.NDArray[np.uint64]  # (n,)


def fingerprints(store: ImageStore, rows: Rows) -> Fingerprints:
    """Return the fingerprint of each of these images, (n_rows,)."""
    digests = store.index["pixel_digest"].to_numpy()[rows]
    return np.array([int(str(digest)[:16], 16) for digest in digests], dtype=np.uint64)


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


def refuse_seen(seen: Fingerprints, store: ImageStore, rows: Rows) -> None:
    """Check that none of these images was trained on.

    Images are compared pixel by pixel as they are stored, so a copy that was edited or compressed again is not found.

    Raises:
        DataError: Some were; says how many and names the first file.
    """
    known = np.isin(fingerprints(store, rows), seen)
    if known.any():
        first = store.index["file"].iloc[int(rows[np.flatnonzero(known)[0]])]
        raise DataError(
            f"{int(known.sum())} of these {len(rows)} images were in the training of this ensemble, {first} among "
            "them: numbers on them would flatter it. Evaluate on images that it has not seen."
        )
