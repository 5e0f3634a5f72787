"""Counting a store: images by class, split and fold, patients, sizes, grey values, columns."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from consilia.audit.document import Column, Counts, Intensities, Spread
from consilia.config.records import DROPPED, LOCKED
from consilia.data.folds import FoldPlan
from consilia.data.store.image_store import META, TAG, ImageStore

NO_SPLIT = "no split"
_COMMONEST = 5
_LONGEST = 60  # characters of a value that are shown


def count_images(store: ImageStore, folds: FoldPlan | None, *, k: int, no_folds: str) -> Counts:
    """Count images and patients by class, split and fold.

    Args:
        store: The data set.
        folds: None where none can be made.
        k: Number of folds that were wanted.
        no_folds: Why there are none.
    """
    splits = store.index["split"].replace("", NO_SPLIT).tolist()
    order = [name for name in ("train", "val", "test", NO_SPLIT) if name in set(splits)]
    names = [store.classes[label] for label in store.labels]
    frame = pd.DataFrame({"split": splits, "label": names, "patient": store.index["patient_id"]})
    patients = frame.drop_duplicates() if store.manifest.has_patients else frame.iloc[:0]
    per_patient = store.index["patient_id"].value_counts().to_numpy()
    return Counts(
        by_split=_cross(frame["split"].tolist(), frame["label"].tolist(), order, store.classes),
        by_fold={} if folds is None else _by_fold(names, folds, store.classes),
        patients_by_split=_cross(patients["split"].tolist(), patients["label"].tolist(), order, store.classes),
        n_patients=len(per_patient) if store.manifest.has_patients else None,
        images_per_patient=spread(per_patient) if store.manifest.has_patients else None,
        k=k,
        seed=None if folds is None else folds.seed,
        no_folds=no_folds,
    )


def count_intensities(store: ImageStore) -> tuple[Intensities, ...]:
    """Return mean and deviation of the stored pixels by split and class, from the index alone."""
    names = [store.classes[label] for label in store.labels]
    rows = store.index[["split", "mean", "mean_square"]].assign(label=names)
    means = rows.groupby(["split", "label"], sort=True)[["mean", "mean_square"]].agg("mean")
    counts = Counter(zip(rows["split"].tolist(), names, strict=True))
    return tuple(
        Intensities(
            split=split or NO_SPLIT,
            label=label,
            n_images=counts[split, label],
            mean=mean,
            std=max(0.0, mean_square - mean**2) ** 0.5,
        )
        for (split, label), mean, mean_square in zip(
            means.index.tolist(), means["mean"].tolist(), means["mean_square"].tolist(), strict=True
        )
    )


def describe_columns(store: ImageStore) -> tuple[Column, ...]:
    """Return what the columns of the table and the DICOM tags hold."""
    return tuple(_describe(store.index[name], name) for name in store.index.columns if name.startswith((META, TAG)))


def spread(values: npt.NDArray[np.integer[Any]]) -> Spread:
    """Return least, median and greatest value, and how many differ."""
    return Spread(
        low=float(values.min()),
        median=float(np.median(values)),
        high=float(values.max()),
        n_distinct=len(np.unique(values)),
    )


def count_values(values: "pd.Series[str]") -> dict[str, int]:
    """Return how often each value stands there, most frequent first."""
    return {str(name): int(count) for name, count in values.value_counts().items()}


def shorten(text: str) -> str:
    """Return the start of a long text."""
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _describe(values: "pd.Series[str]", name: str) -> Column:
    filled = values[values.str.strip() != ""]
    counts = count_values(filled)
    names = len(counts) > len(filled) / 2  # identifiers tell nothing here, and may be private
    return Column(
        name=name.removeprefix(META).removeprefix(TAG),
        origin="table" if name.startswith(META) else "tag",
        n_filled=len(filled),
        n_distinct=len(counts),
        commonest={} if names else {shorten(each): counts[each] for each in list(counts)[:_COMMONEST]},
    )


def _by_fold(names: Sequence[str], folds: FoldPlan, classes: Sequence[str]) -> dict[str, dict[str, int]]:
    special = {LOCKED: "test", DROPPED: "left out"}
    titles = [special.get(fold, f"fold {fold + 1}") for fold in folds.fold.tolist()]
    order = [f"fold {fold + 1}" for fold in range(folds.k)] + [each for each in special.values() if each in set(titles)]
    return _cross(titles, names, order, classes)


def _cross(
    rows: Sequence[str], columns: Sequence[str], row_order: Sequence[str], column_order: Sequence[str]
) -> dict[str, dict[str, int]]:
    counts = Counter(zip(rows, columns, strict=True))
    return {row: {column: counts[row, column] for column in column_order} for row in row_order}
