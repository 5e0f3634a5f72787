"""Labels that a finished study's own trials doubt: a table and a sheet of pictures for people."""

import csv
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from consilia.config.records import Probabilities, Rows
from consilia.data.store.image_store import ImageStore
from consilia.ensemble.candidates import load_candidates
from consilia.ensemble.fitting import fit_recipe
from consilia.files import write_atomically
from consilia.metrics.label_errors import Suspects, suspect_labels
from consilia.report.sheets import contact_sheet
from consilia.study.opened import OpenStudy
from consilia.study.view import Steps, no_steps

_SHOWN = 50  # pictures on the sheet


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspectFiles:
    """What was written."""

    table: Path
    sheet: Path | None  # None: no label is doubted
    n_suspects: int
    n_images: int  # that were looked at: all of the cross-validation pool


def write_suspects(study: OpenStudy, out: Path | None = None, *, steps: Steps = no_steps) -> SuspectFiles:
    """Write `suspects.csv`, the most doubtful label first, and `suspects.png` with the first fifty.

    Each image is judged by an ensemble, by the study's own recipe, that was selected and calibrated without its fold.
    Nothing is dropped or relabelled: a doubted label may be a rare finding that is right.

    Args:
        study: Its search has finished a trial.
        out: Folder for both files; None: the study's own.
        steps: Told what is being done.

    Raises:
        StudyError: The study has no folds yet, or its data have changed.
        RunError: No trial has finished.
    """
    steps("reading images and folds", 0, 0)
    images = study.folds.pool
    steps("judging each image by an ensemble that did not see its fold", 0, 0)
    probabilities = _cross_fitted(study)
    store = study.store
    suspects = suspect_labels(probabilities, store.labels[images])
    target = study.folder.root if out is None else out
    table = target / "suspects.csv"
    steps("writing the doubted labels", 0, 0)
    write_atomically(table, lambda temporary: _write_table(temporary, suspects, images, probabilities, store))
    sheet = target / "suspects.png" if len(suspects.rows) else None
    if sheet is not None:
        write_atomically(sheet, _make_sheet(suspects, images, store).save)
    return SuspectFiles(table=table, sheet=sheet, n_suspects=len(suspects.rows), n_images=len(images))


def _cross_fitted(study: OpenStudy) -> Probabilities:
    """Return what an ensemble says of each image of the pool without having seen the image's fold."""
    trials = list(study.records().values())
    finished = load_candidates(trials, folder=study.folder, store=study.store, folds=study.folds)
    return fit_recipe(study.plan.ensemble, finished.candidates, finished.truth, seed=study.plan.seed).cross_fitted


def _write_table(path: Path, suspects: Suspects, images: Rows, probabilities: Probabilities, store: ImageStore) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "patient", "label", "looks_like", *(f"p_{name}" for name in store.classes)])
        for row, suggested in zip(suspects.rows, suspects.suggested, strict=True):
            image = int(images[row])
            entry = store.index.iloc[image]
            names = (store.classes[store.labels[image]], store.classes[suggested])
            writer.writerow([entry["file"], entry["patient_id"], *names, *probabilities[row].tolist()])


def _make_sheet(suspects: Suspects, images: Rows, store: ImageStore) -> Image.Image:
    shown = [int(images[row]) for row in suspects.rows[:_SHOWN]]
    captions = [
        (
            str(store.index["file"].iloc[image]),
            f"labelled {store.classes[store.labels[image]]}",
            f"looks like {store.classes[suggested]}",
        )
        for image, suggested in zip(shown, suspects.suggested, strict=False)
    ]
    return contact_sheet([store.pixels[image] for image in shown], captions)
