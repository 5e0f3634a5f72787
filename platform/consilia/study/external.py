"""Measure a finished ensemble on another card, or on the test split of its own."""

from pathlib import Path

import numpy as np

from consilia.data.prepare import prepare
from consilia.ensemble.evaluate import evaluate
from consilia.ensemble.evaluation import Evaluation
from consilia.ensemble.predictor import load_predictor
from consilia.errors import DataError
from consilia.plan.data import DataCard


def evaluate_on_card(bundle: Path, card: DataCard, *, stores: Path, device: str = "auto") -> Evaluation:
    """Evaluate on the card's test split, or on all images of a card that brings none.

    Images that the ensemble was trained on are never evaluated: its own data set counts only if the source brings
    the test split.

    Raises:
        BundleError: The bundle is damaged.
        DataError: The classes differ, or the card is the ensemble's own and brings no test split.
    """
    predictor = load_predictor(bundle, device=device)
    store = prepare(card, root=stores.absolute())
    rows = np.flatnonzero((store.index["split"] == "test").to_numpy())
    if len(rows):
        return evaluate(predictor, store, rows, split="test")
    if store.digest == predictor.document.provenance.data_digest:
        raise DataError(
            f"The ensemble was trained on {card.name}, and its source brings no test split. The study drew one and "
            f"has evaluated on it: see {bundle / 'card.md'}."
        )
    return evaluate(predictor, store, np.arange(len(store)), split="external")
