"""Images that must stay together: those of one patient, and those of patients who share a picture."""

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from consilia.config.records import Rows
from consilia.data.duplicates import find_duplicates
from consilia.data.store.image_store import ImageStore
from consilia.errors import DataError

GroupIds = npt.NDArray[np.int64]  # (n,) images of one group share a number


def merge_duplicates(store: ImageStore) -> GroupIds:
    """Number the groups of images: bonds are one patient, the same pixels, and near duplicates.

    Returns:
        Group of each image, (n,), counted from 0 in order of appearance.
    """
    rows = np.arange(len(store))
    patient = pd.factorize(store.index["patient_id"])[0]
    first = np.unique(patient, return_index=True)[1][patient]
    pairs = np.array([(pair.first, pair.second) for pair in find_duplicates(store)], dtype=np.int64).reshape(-1, 2)
    ends = np.concatenate([np.stack([first, rows], axis=1), pairs])
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(store), len(store)))
    component = connected_components(graph, directed=False)[1]
    groups: GroupIds = pd.factorize(component)[0].astype(np.int64)
    return groups


def refuse_crossing(
    store: ImageStore, part: npt.NDArray[np.int64], *, groups: GroupIds, among: Rows, what: str, remedy: str
) -> None:
    """Raise an error if images that are bound to each other lie in more than one part.

    Args:
        store: The images.
        part: Part of each image, (n,): its fold, say.
        groups: Of the images, as `merge_duplicates` numbers them.
        among: Rows of the images that belong to a part.
        what: What the parts are, for the error.
        remedy: What to do, for the error.

    Raises:
        DataError: Images of one group lie in several parts; names two files.
    """
    bonds = {
        "are of one patient": store.index["patient_id"].to_numpy(),
        "hold the same pixels": store.index["pixel_digest"].to_numpy(),
        "show nearly the same picture, or are linked by pictures that do": groups,
    }
    for says, bond in bonds.items():
        frame = pd.DataFrame({"bond": bond[among], "part": part[among], "row": among})
        n_parts = frame.groupby("bond", sort=False)["part"].nunique()
        divided = n_parts.index[n_parts > 1]
        if divided.empty:
            continue
        rows = frame["row"][frame["bond"] == divided[0]].to_numpy()
        one, two = (_name(store, row) for row in _closest(store, part, rows))
        raise DataError(
            f"{store.folder}: {one} and {two} {says}, but {what} parts them ({len(divided)} such cases in all). "
            f"{remedy}"
        )


def _name(store: ImageStore, row: int) -> str:
    file = str(store.index["file"][row])
    return f"{file} (patient {store.index['patient_id'][row]!r})" if store.manifest.has_patients else file


def _closest(store: ImageStore, part: npt.NDArray[np.int64], rows: Rows) -> tuple[int, int]:
    """Return two of these bound images that lie in different parts; a pair of duplicates, if one does."""
    members = set(rows.tolist())
    for pair in find_duplicates(store):
        if {pair.first, pair.second} <= members and part[pair.first] != part[pair.second]:
            return pair.first, pair.second
    return int(rows[0]), int(rows[part[rows] != part[rows[0]]][0])
