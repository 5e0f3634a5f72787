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


def refuse_crossing(store: ImageStore, groups: Groups, part: npt.NDArray[np.int64], *, what: str) -> None:
    """Raise when a group lies in more than one part.

    Args:
        store: Names the files for the error.
        groups: Group of each image, (n,).
        part: Part of each image, (n,): its fold, say.
        what: What divides the parts, for the error.

    Raises:
        DataError: Names two files of the first group that is divided.
    """
    crossing = pd.DataFrame({"group": groups, "part": part}).groupby("group")["part"].nunique()
    broken = crossing.index[crossing > 1]
    if broken.empty:
        return
    rows = np.flatnonzero(groups == broken[0])
    first = rows[0]
    other = rows[part[rows] != part[first]][0]
    file, patient = store.index["file"], store.index["patient_id"]
    raise DataError(
        f"{store.folder}: {file[first]} (patient {patient[first]!r}) and {file[other]} "
        f"(patient {patient[other]!r}) are of one patient or hold the same pixels, but {what} parts them, "
        f"as it does {len(broken)} group(s) in all. Correct the splits, or remove the copies: "
        "what is tested may not be trained on."
    )
