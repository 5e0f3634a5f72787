"""Images that must stay together: those of one patient, and those of patients sharing an exact duplicate."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from consilia.data.store import ImageStore
from consilia.errors import DataError

Groups = npt.NDArray[np.int64]  # (n,) images of one group share a number


def merge_duplicates(store: ImageStore) -> Groups:
    """Number the groups of images: a patient's are one, and patients with equal images are merged.

    Returns:
        Group of each image, (n,), counted from 0 in order of appearance.
    """
    parent: dict[str, str] = {}

    def find(node: str) -> str:
        while parent.setdefault(node, node) != node:
            parent[node] = node = parent[parent[node]]
        return node

    patients = store.index["patient_id"].tolist()
    for patient, digest in zip(patients, store.index["pixel_digest"].tolist(), strict=True):
        parent[find(f"pixels {digest}")] = find(f"patient {patient}")
    roots = pd.Series([find(f"patient {patient}") for patient in patients])
    return pd.factorize(roots)[0].astype(np.int64)


def refuse_crossing(store: ImageStore, part: npt.NDArray[np.int64], *, what: str) -> None:
    """Raise when a patient, or an image and its exact copy, lies in more than one part.

    Args:
        store: The images.
        part: Part of each image, (n,): its fold, say.
        what: What divides the parts, for the error.

    Raises:
        DataError: Names two files of the first patient or picture that is divided.
    """
    for column, bond in (("patient_id", "are of one patient"), ("pixel_digest", "hold the same pixels")):
        frame = pd.DataFrame({"bond": store.index[column], "part": part})
        crossing = frame.groupby("bond", sort=False)["part"].nunique()
        broken = crossing.index[crossing > 1]
        if broken.empty:
            continue
        rows = np.flatnonzero(frame["bond"] == broken[0])
        other = rows[part[rows] != part[rows[0]]][0]
        one, two = (
            f"{store.index['file'][row]} (patient {store.index['patient_id'][row]!r})" for row in (rows[0], other)
        )
        raise DataError(
            f"{store.folder}: {one} and {two} {bond}, but {what} parts them ({len(broken)} such cases in all). "
            "Correct the splits, or remove the copies: what is tested may not be trained on."
        )
