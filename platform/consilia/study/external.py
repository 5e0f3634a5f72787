"""Measure a finished ensemble on another card, or on the test split of its own."""

from pathlib import Path

import numpy as np

from consilia.data.prepare import prepare
from consilia.ensemble.evaluate import evaluate
from consilia.ensemble.evaluation import Evaluation
from consilia.ensemble.predictor import load_predictor
from consilia.folder import StudyFolder
from consilia.plan.data import DataCard
from consilia.study.openings import log_opening


def evaluate_on_card(bundle: Path, card: DataCard, *, stores: Path, device: str = "auto") -> Evaluation:
    """Evaluate on the card's test split, or on all images of a card that brings none.

    An image that the ensemble was trained on is refused. Opening the locked test split of the ensemble's own data is
    written to its study, if the bundle lies in one.

    Raises:
        BundleError: The bundle is damaged.
        DataError: The classes differ, or images were trained on.
    """
    predictor = load_predictor(bundle, device=device)
    store = prepare(card, root=stores.absolute())
    locked = np.flatnonzero((store.index["split"] == "test").to_numpy())
    rows = locked if len(locked) else np.arange(len(store))
    if store.digest != predictor.document.provenance.data_digest:
        return evaluate(predictor, store, rows, split="external")
    folder = StudyFolder(bundle.absolute().parent.parent)
    if folder.plan.is_file():
        log_opening(folder, predictor.document.provenance.recipe)
    return evaluate(predictor, store, rows, split="test")
