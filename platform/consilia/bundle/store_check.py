"""Whether a prepared data set is one that an ensemble can be measured on."""

import numpy as np

from consilia.bundle.array_files import Fingerprints
from consilia.bundle.document import BundleDocument
from consilia.config.records import Rows
from consilia.data.store.image_store import ImageStore
from consilia.errors import DataError


def check_store(store: ImageStore, document: BundleDocument) -> None:
    """Refuse a data set with other classes, or one that was read otherwise than the training images.

    Raises:
        DataError: Says what differs, and what to prepare instead.
    """
    manifest = store.manifest
    expected: dict[str, object] = {"classes": document.classes, **dict(document.reading)}
    found: dict[str, object] = {"classes": store.classes, **dict(manifest.reading)}
    for what, wanted in expected.items():
        if wanted != found[what]:
            raise DataError(
                f"{store.folder}: {what} must be {wanted}, as in ensemble {document.name}, but is "
                f"{found[what]}. Prepare the data set again with that {what} (--set {what}=...)."
            )
    if strange := set(manifest.kinds) - set(document.kinds):
        raise DataError(
            f"{store.folder}: its images are {', '.join(sorted(strange))}, but ensemble {document.name} was "
            f"trained on {', '.join(document.kinds)} only. Evaluate it on images of that kind."
        )


def fingerprints(store: ImageStore, rows: Rows) -> Fingerprints:
    """Return the fingerprint of each of these images, (n_rows,)."""
    digests = store.index["pixel_digest"].to_numpy()[rows]
    return np.array([int(str(digest)[:16], 16) for digest in digests], dtype=np.uint64)


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
            "them: numbers on them would flatter it. Evaluate on images that it has not seen, such as the locked "
            "test of its study (--study)."
        )
