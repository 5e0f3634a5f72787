"""Scoring a finished ensemble on images that nothing was chosen on. Source: docs/methods.md section 8."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from consilia.bundle.document import BundleDocument
from consilia.bundle.evaluation import Evaluation
from consilia.bundle.store_check import refuse_seen
from consilia.bundle.text import describe_shipped
from consilia.config.records import Rows
from consilia.data.store.image_store import ImageStore
from consilia.decision.calibrators import Identity, calibrate, pool_folds
from consilia.decision.promises import measure_promises
from consilia.ensemble.evaluation import Subject, score_predictions
from consilia.errors import DataError
from consilia.metrics.subgroups import Groups, Scored, Subgroups, score_subgroups
from consilia.predict.predictor import EnsemblePredictor


def evaluate(
    predictor: EnsemblePredictor,
    store: ImageStore,
    rows: Rows,
    *,
    split: Literal["test", "external"] = "test",
    seed: int = 0,
    bound: Rows | None = None,
) -> Evaluation:
    """Score the shipped predictor, each headline number with its interval, before and after calibration.

    Args:
        predictor: A loaded ensemble.
        store: The prepared data set.
        rows: Its images to score: the locked test split, or any others that no trial has seen.
        split: Which of the two they are.
        seed: Of the bootstrap.
        bound: Those of `rows` that the study has kept although they share a patient or a picture with its training
            images (`FoldPlan.bound`); the notes say so. None: any that was trained on is refused.

    Raises:
        DataError: There are no rows, some were trained on, or the store does not fit the ensemble.
    """
    return evaluate_groups(predictor, store, rows, (), split=split, seed=seed, bound=bound)[0]


def evaluate_groups(
    predictor: EnsemblePredictor,
    store: ImageStore,
    rows: Rows,
    groups: Sequence[Groups],
    *,
    split: Literal["test", "external"] = "test",
    seed: int = 0,
    bound: Rows | None = None,
) -> tuple[Evaluation, tuple[Subgroups, ...]]:
    """Score as `evaluate`, and once more each of `groups` of these rows; the images are predicted once."""
    if len(rows) == 0:
        raise DataError(
            f"{store.folder}: an evaluation needs images that no trial has seen, but there is no test split. "
            "The cross-validated numbers in the ensemble's card are an internal estimate."
        )
    flattered = np.array([], dtype=np.int64) if bound is None else np.intersect1d(rows, bound)
    refuse_seen(predictor.seen, store, np.setdiff1d(rows, flattered))
    folds = predictor.fold_probabilities(store, rows)
    subject = Subject(
        labels=store.labels[rows],
        patients=store.patients[rows],
        classes=predictor.classes,
        split=split,
        predictor=describe(predictor.document),
        notes=_notes(store, rows, flattered),
    )
    calibrated = pool_folds(predictor.document.calibrator, folds)
    evaluation = score_predictions(calibrated, pool_folds(Identity(), folds), subject, seed=seed)
    scored = Scored(probabilities=calibrated, labels=subject.labels, patients=subject.patients, classes=subject.classes)
    document = predictor.document
    seen = measure_promises(document.safety, predictor.sets, scored, calibrate(document.calibrator, folds))
    evaluation = evaluation.model_copy(update={"promises": seen})
    return evaluation, tuple(score_subgroups(scored, each, seed=seed) for each in groups)


def _notes(store: ImageStore, rows: Rows, flattered: Rows) -> tuple[str, ...]:
    notes = [] if store.manifest.has_patients else [NO_PATIENTS]
    if len(flattered):
        notes.append(
            f"{len(flattered)} of these {len(rows)} images share a patient or a picture with images that were trained "
            "on, by on_leak: keep; the numbers may flatter."
        )
    return tuple(notes)


NO_PATIENTS = (
    "No patient grouping: images are taken as independent, so intervals may be too narrow, and images of one "
    "patient may lie on both sides of a split."
)


def describe(document: BundleDocument) -> str:
    """Return in words which predictor the bundle ships."""
    return describe_shipped(document.build, n_members=len(document.members), n_folds=document.n_folds)
