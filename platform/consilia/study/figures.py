"""The figures of an ensemble on a card's images, as files."""

from pathlib import Path

import numpy as np
from matplotlib import rc_context

from consilia.bundle.store_check import refuse_seen
from consilia.config.card import DataCard
from consilia.config.records import Probabilities, Rows
from consilia.data.store.image_store import ImageStore
from consilia.data.store.prepare import prepare
from consilia.files import write_atomically
from consilia.metrics.patients import count_in_words
from consilia.metrics.scores import softmax
from consilia.predict.loading import load_predictor
from consilia.predict.predictor import BATCH_SIZE, EnsemblePredictor
from consilia.report.figures import Drawing, Shown, draw_figures
from consilia.study.external import open_split, rows_to_measure


def write_figures(
    bundle: Path, card: DataCard, *, stores: Path, out: Path, device: str = "auto"
) -> tuple[list[Path], str]:
    """Draw the ensemble on the card's test split, or on all images of a card that brings none.

    Args:
        bundle: Folder of the ensemble.
        card: Of the images. An image that was trained on is refused; opening a locked test split is written down.
        stores: Folder of the image stores.
        out: Folder for NAME.svg, NAME.png and, with the numbers behind them, NAME.parquet.
        device: As of `load_predictor`.

    Returns:
        The files, and what a reader must know of earlier openings of the test split.

    Raises:
        BundleError: The bundle is damaged.
        DataError: The classes differ, or images were trained on.
    """
    predictor = load_predictor(bundle, device=device)
    store = prepare(card, root=stores.absolute())
    rows = rows_to_measure(store)
    refuse_seen(predictor.seen, store, rows)
    split, remark = open_split(bundle, predictor, store)
    patients = store.patients[rows]
    shown = Shown(
        probabilities=predictor.predict_store(store, rows),
        labels=store.labels[rows],
        patients=patients,
        classes=predictor.classes,
        members=_members(predictor, store, rows),
        weights=predictor.networks.combination.shares,
        trials=tuple(member.trial for member in predictor.document.members),
        title=f"{card.name}, {split}: {count_in_words(len(rows), len(np.unique(patients)))}",
    )
    written = [path for name, drawing in draw_figures(shown).items() for path in _write(out / name, drawing)]
    return written, remark


def _members(predictor: EnsemblePredictor, store: ImageStore, rows: Rows) -> Probabilities:
    """Return what each member says, averaged over its folds, (n_members, n_images, n_classes)."""
    batches = [rows[start : start + BATCH_SIZE] for start in range(0, len(rows), BATCH_SIZE)]
    said = [softmax(predictor.networks.logits(store.pixels[batch])).mean(axis=1) for batch in batches]
    result: Probabilities = np.concatenate(said, axis=1)
    return result


def _write(stem: Path, drawing: Drawing) -> list[Path]:
    paths = [stem.with_suffix(suffix) for suffix in (".svg", ".png", ".parquet")]
    svg, png, numbers = paths
    with rc_context({"svg.hashsalt": "consilia"}):  # without random names and a date, equal numbers give equal files
        write_atomically(svg, lambda file: drawing.figure.savefig(file, format="svg", metadata={"Date": None}))
    write_atomically(png, lambda file: drawing.figure.savefig(file, format="png", dpi=150))
    write_atomically(numbers, lambda file: drawing.numbers.to_parquet(file))
    return paths
