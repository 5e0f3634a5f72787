"""Pictures that stand in the data more than once, and patients that lie in several splits."""

from collections.abc import Callable, Iterable

import pandas as pd

from consilia.audit.document import Case, CrossingPatient, Duplicates, Image
from consilia.data.duplicates import DuplicatePair
from consilia.data.store.image_store import ImageStore


def collect_duplicates(store: ImageStore, pairs: Iterable[DuplicatePair]) -> Duplicates:
    """Gather exact copies into groups and keep near duplicates as pairs.

    Args:
        store: The data set.
        pairs: What `consilia.data.duplicates.find_duplicates` found in it.

    Returns:
        Each part in order of importance: those that reach the test split, other splits, conflicts, the rest.
    """
    digests = store.index["pixel_digest"]
    shared = digests[digests.duplicated(keep=False)]
    places = shared.groupby(shared, sort=False).indices.values()
    describe = _describer(store)
    exact = [Case(kind="exact", difference=0.0, images=describe(shared.index[each])) for each in places]
    near = [
        Case(kind="near", difference=pair.difference, images=describe((pair.first, pair.second)))
        for pair in pairs
        if pair.kind == "near"
    ]
    return Duplicates(exact=tuple(sorted(exact, key=_rank)), near=tuple(sorted(near, key=_rank)))


def find_crossing_patients(store: ImageStore) -> tuple[CrossingPatient, ...]:
    """Return the patients with images in more than one of the source's splits; those in the test split first."""
    if not store.manifest.has_patients:
        return ()
    rows = store.index[["patient_id", "split", "file"]]
    n_splits = rows.groupby("patient_id", sort=False)["split"].nunique()
    crossing = rows[rows["patient_id"].isin(n_splits.index[n_splits > 1])]
    found = [
        CrossingPatient(patient=str(patient), files=_files_by_split(part))
        for patient, part in crossing.groupby("patient_id", sort=True)
    ]
    return tuple(sorted(found, key=lambda each: "test" not in each.files))


def _files_by_split(rows: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    return {str(split): tuple(part["file"].tolist()) for split, part in rows.groupby("split", sort=True)}


def _describer(store: ImageStore) -> Callable[[Iterable[int]], tuple[Image, ...]]:
    """Return what turns rows into images; the columns are taken out of the index once, not once a group."""
    names = ("file", "frame", "patient_id", "label", "split")
    files, frames, patients, labels, splits = (store.index[name].tolist() for name in names)

    def describe(rows: Iterable[int]) -> tuple[Image, ...]:
        return tuple(
            Image(
                image_id=row,
                file=files[row],
                frame=frames[row],
                patient=patients[row] if store.manifest.has_patients else "",
                label=store.classes[labels[row]],
                split=splits[row],
            )
            for row in map(int, rows)
        )

    return describe


def _rank(case: Case) -> tuple[bool, bool, bool, float, int]:
    first = case.images[0].image_id
    return (not case.reaches_test, not case.crosses_splits, not case.conflicts, case.difference, first)
