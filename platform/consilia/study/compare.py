"""Two finished ensembles on the same images."""

from pathlib import Path

import numpy as np

from consilia.bundle.store_check import refuse_seen
from consilia.config.card import DataCard
from consilia.config.frozen import Frozen
from consilia.config.records import Rows
from consilia.data.store.image_store import ImageStore
from consilia.data.store.prepare import prepare
from consilia.ensemble.evaluate import NO_PATIENTS
from consilia.errors import DataError
from consilia.metrics.paired import PairedMetric, compare_paired
from consilia.metrics.patients import FEWEST_PATIENTS
from consilia.predict.loading import load_predictor
from consilia.predict.predictor import EnsemblePredictor
from consilia.study.external import open_split, rows_to_measure


class Comparison(Frozen):
    """What two ensembles are worth beside each other."""

    first: str  # name of the ensemble
    second: str
    images: int
    patients: int
    metrics: tuple[PairedMetric, ...]
    notes: tuple[str, ...]


def compare_on_card(first: Path, second: Path, card: DataCard, *, stores: Path, device: str = "auto") -> Comparison:
    """Compare on the card's test split, or on all images of a card that brings none.

    An image that either was trained on is refused. Opening a locked test split is written to each study that it
    belongs to.

    Args:
        first: Folder of the ensemble that is judged.
        second: Folder of the one that it is compared with.
        card: Of the images.
        stores: Folder of the image stores.
        device: As of `load_predictor`.

    Raises:
        BundleError: A bundle is damaged.
        DataError: The classes differ, images are read differently, or images were trained on.
    """
    bundles = (first, second)
    predictors = [load_predictor(bundle, device=device) for bundle in bundles]
    _refuse_unlike(*predictors)
    store = prepare(card, root=stores.absolute())
    rows = rows_to_measure(store)
    for bundle, predictor in zip(bundles, predictors, strict=True):
        try:
            refuse_seen(predictor.seen, store, rows)
        except DataError as error:
            raise DataError(f"{bundle}: {error}") from error
    opened = [open_split(bundle, predictor, store) for bundle, predictor in zip(bundles, predictors, strict=True)]
    splits = [split for split, _ in opened]
    one, two = (predictor.predict_store(store, rows) for predictor in predictors)
    notes = (*_notes(store, rows), *dict.fromkeys(remark for _, remark in opened if remark))
    if splits[0] != splits[1]:
        own = bundles[splits.index("test")]
        notes = (*notes, f"The images are the test split of {own}'s own data; to the other they are foreign.")
    return Comparison(
        first=predictors[0].document.name,
        second=predictors[1].document.name,
        images=len(rows),
        patients=len(np.unique(store.patients[rows])),
        metrics=compare_paired(one, two, store.labels[rows], store.patients[rows]),
        notes=notes,
    )


def _refuse_unlike(first: EnsemblePredictor, second: EnsemblePredictor) -> None:
    """Refuse ensembles that cannot score the same images into the same classes."""
    if first.classes != second.classes:
        raise DataError(
            f"Both ensembles must know the same classes in the same order, but {first.document.name} knows "
            f"{', '.join(first.classes)}, and {second.document.name} {', '.join(second.classes)}. Compare ensembles of "
            "one task."
        )
    one, two = dict(first.document.reading), dict(second.document.reading)
    if unlike := [name for name in one if one[name] != two[name]]:
        raise DataError(
            f"Both ensembles must read images alike, but {unlike[0]} is {one[unlike[0]]} for {first.document.name} and "
            f"{two[unlike[0]]} for {second.document.name}. Measure each with `consilia evaluate`."
        )


def _notes(store: ImageStore, rows: Rows) -> tuple[str, ...]:
    notes = [] if store.manifest.has_patients else [NO_PATIENTS]
    if len(np.unique(store.patients[rows])) < FEWEST_PATIENTS:
        notes.append(f"No claim: there are fewer than {FEWEST_PATIENTS} patients.")
    for number, name in enumerate(store.classes):
        count = len(np.unique(store.patients[rows][store.labels[rows] == number]))
        if count < FEWEST_PATIENTS:
            notes.append(f"No claim for class {name}: {count} patients have it, under {FEWEST_PATIENTS}.")
    return tuple(notes)
