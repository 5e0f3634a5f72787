"""Measure a finished ensemble on another card, or on the test split of its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from consilia.bundle.evaluation import Evaluation
from consilia.config.card import DataCard
from consilia.config.records import Rows
from consilia.config.study_folder import StudyFolder
from consilia.data.store.image_store import ImageStore
from consilia.data.store.prepare import prepare
from consilia.ensemble.by_column import read_groups
from consilia.ensemble.evaluate import evaluate_groups
from consilia.metrics.subgroups import Subgroups
from consilia.predict.loading import load_predictor
from consilia.predict.predictor import EnsemblePredictor
from consilia.study.test_access import log_opening


def evaluate_on_card(bundle: Path, card: DataCard, *, stores: Path, device: str = "auto") -> Evaluation:
    """Evaluate on the card's test split, or on all images of a card that brings none.

    An image that the ensemble was trained on is refused. Opening the locked test split of the ensemble's own data is
    written to its study, if the bundle lies in one.

    Raises:
        BundleError: The bundle is damaged.
        DataError: The classes differ, or images were trained on.
    """
    return evaluate_by_columns(bundle, card, (), stores=stores, device=device)[0]


def evaluate_by_columns(
    bundle: Path, card: DataCard, by: Sequence[str], *, stores: Path, device: str = "auto"
) -> tuple[Evaluation, tuple[Subgroups, ...]]:
    """Evaluate as `evaluate_on_card`, and by groups of images.

    Args:
        bundle: Folder of the ensemble.
        card: Of the images.
        by: Columns to group by, as `ensemble.by_column.read_groups` takes them.
        stores: Folder of the image stores.
        device: As of `load_predictor`.

    Raises:
        BundleError: The bundle is damaged.
        DataError: The classes differ, images were trained on, or a column cannot be grouped by.
    """
    predictor = load_predictor(bundle, device=device)
    store = prepare(card, root=stores.absolute())
    rows = rows_to_measure(store)
    groups = [read_groups(store, rows, each) for each in by]  # a wrong name must not open the test split
    split, remark = open_split(bundle, predictor, store)
    evaluation, subgroups = evaluate_groups(predictor, store, rows, groups, split=split)
    return evaluation.with_note(remark), subgroups


def rows_to_measure(store: ImageStore) -> Rows:
    """Return the rows of the test split, or all rows where there is none."""
    locked = np.flatnonzero((store.index["split"] == "test").to_numpy())
    return locked if len(locked) else np.arange(len(store))


def open_split(
    bundle: Path, predictor: EnsemblePredictor, store: ImageStore
) -> tuple[Literal["test", "external"], str]:
    """Say whether these are the ensemble's own data; if so, write the opening to its study, if it lies in one.

    Returns:
        Which images they are, and what `log_opening` has to say.
    """
    if store.digest != predictor.document.provenance.data_digest:
        return "external", ""
    folder = StudyFolder(bundle.absolute().parent.parent)
    return "test", log_opening(folder, predictor.document) if folder.plan.is_file() else ""
