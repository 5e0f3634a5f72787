"""What a bundle compares new images with, made from the images of the training. Source: docs/methods.md section 7."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from consilia.bundle.array_files import OodReference
from consilia.config.records import Rows
from consilia.data.folds import FoldPlan
from consilia.data.store.image_store import ImageStore
from consilia.decision.ood.distance import MOST_ROWS
from consilia.decision.ood.inputs import in_blocks
from consilia.decision.ood.picture import describe
from consilia.decision.ood.verdict import OodReport
from consilia.ensemble.ood_reference import fit_inputs, fit_pictures
from consilia.predict.images import is_grey

_NO_OOD = "Images that are unlike those of the training are not told from others: "


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedOod:
    """What the document says of it, and what the file holds."""

    report: OodReport
    reference: OodReference


def fit_ood(store: ImageStore, folds: FoldPlan, *, seed: int) -> tuple[FittedOod | None, tuple[str, ...]]:
    """Describe usual images by those of the folds: neither a test image nor one that was left out enters.

    At most 2,000, drawn at random: images and not whole patients, since the more patients there are among them, the
    less a p-value depends on the draw.

    Args:
        store: The prepared data set.
        folds: Of the study.
        seed: Decides which images are drawn.

    Returns:
        What new images are compared with; or, where that cannot be made, None and a warning that says why.
    """
    rows = reference_rows(folds, seed=seed)
    images = _StoreRows(store, rows)
    try:
        pictures = fit_pictures(np.concatenate([describe(block) for block in in_blocks(images)]), folds.group[rows])
    except ValueError as error:
        return None, (f"{_NO_OOD}{error}.",)
    inputs = fit_inputs(images, aspect=_aspect(store, rows), colour=_colour(store, rows))
    report = OodReport(compared_with=len(rows))
    return FittedOod(report=report, reference=OodReference(pictures=pictures, inputs=inputs)), ()


def reference_rows(folds: FoldPlan, *, seed: int) -> Rows:
    """Return the rows that new images are compared with, ascending."""
    if len(folds.pool) <= MOST_ROWS:
        return folds.pool
    return np.sort(np.random.default_rng(seed).choice(folds.pool, size=MOST_ROWS, replace=False))


class _StoreRows:
    """Rows of a store, read from the disk as they are sliced."""

    def __init__(self, store: ImageStore, rows: Rows) -> None:
        self._store, self._rows = store, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, part: slice) -> npt.NDArray[np.uint8]:
        pixels: npt.NDArray[np.uint8] = self._store.pixels[self._rows[part]]
        return pixels


def _aspect(store: ImageStore, rows: Rows) -> npt.NDArray[np.float64]:
    index = store.index.iloc[rows]
    result: npt.NDArray[np.float64] = index["width"].to_numpy(np.float64) / index["height"].to_numpy(np.float64)
    return result


def _colour(store: ImageStore, rows: Rows) -> npt.NDArray[np.float64] | None:
    """Return the colour of each file as far as its mode tells it; None where the stored pixels have it themselves."""
    if store.manifest.channels > 1:
        return None
    return np.array([0.0 if is_grey(mode) else np.nan for mode in store.index["mode"].iloc[rows]])
