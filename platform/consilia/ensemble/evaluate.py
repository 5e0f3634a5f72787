"""What a predictor is worth, in numbers with intervals. Source: docs/methods.md sections 5 and 8."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from consilia.bundle.document import BundleDocument
from consilia.bundle.evaluation import ClassReport, Evaluation, Split
from consilia.bundle.store_check import refuse_seen
from consilia.bundle.text import describe_shipped
from consilia.config.records import Labels, Probabilities, Rows
from consilia.data.store.image_store import ImageStore
from consilia.decision.calibrators import Identity, calibrate, pool_folds
from consilia.decision.promises import measure_promises
from consilia.errors import DataError
from consilia.metrics.bootstrap import DRAWS, patient_bootstrap
from consilia.metrics.diagrams import class_scores, confusion
from consilia.metrics.estimates import Estimate, defined_or_none
from consilia.metrics.patients import FEWEST_PATIENTS, patient_numbers, pool_images
from consilia.metrics.scores import METRICS
from consilia.metrics.subgroups import Groups, Scored, Subgroups, score_subgroups
from consilia.predict.predictor import EnsemblePredictor, Progress, unseen

CALIBRATION_METRICS = ("log_loss", "brier", "ece", "signed_gap")
NO_PATIENTS = (
    "No patient grouping: images are taken as independent, so intervals may be too narrow, and images of one "
    "patient may lie on both sides of a split."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The images that predictions are scored on, and what the numbers describe."""

    labels: Labels  # (n_images,)
    patients: npt.NDArray[np.str_]  # (n_images,)
    classes: tuple[str, ...]
    split: Split
    predictor: str  # in words
    notes: tuple[str, ...] = ()  # what a reader has to know besides


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
    progress: Progress = unseen,
) -> tuple[Evaluation, tuple[Subgroups, ...]]:
    """Score as `evaluate`, and once more each of `groups` of these rows; the images are predicted once.

    `progress` is told how many of them are.
    """
    if len(rows) == 0:
        raise DataError(
            f"{store.folder}: an evaluation needs images that no trial has seen, but there is no test split. "
            "The cross-validated numbers in the ensemble's card are an internal estimate."
        )
    flattered = np.array([], dtype=np.int64) if bound is None else np.intersect1d(rows, bound)
    refuse_seen(predictor.seen, store, np.setdiff1d(rows, flattered))
    folds = predictor.fold_probabilities(store, rows, progress=progress)
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


def describe(document: BundleDocument) -> str:
    """Return in words which predictor the bundle ships."""
    return describe_shipped(document.build, n_members=len(document.members), n_folds=document.n_folds)


def score_predictions(
    calibrated: Probabilities,
    uncalibrated: Probabilities,
    subject: Subject,
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> Evaluation:
    """Score probabilities, (n_images, n_classes) each, before and after calibration, and patients as a whole.

    Args:
        calibrated: What the predictor says.
        uncalibrated: What it would say without its calibrator.
        subject: The images.
        seed: Of the bootstrap.
        draws: Number of bootstrap samples.
    """
    by_patient = _score_patients(calibrated, uncalibrated, subject, seed=seed, draws=draws)
    return _score(calibrated, uncalibrated, subject, seed=seed, draws=draws).model_copy(
        update={"by_patient": by_patient}
    )


def _score_patients(
    calibrated: Probabilities, uncalibrated: Probabilities, subject: Subject, *, seed: int, draws: int
) -> Evaluation | None:
    """Score each patient's images as one; a patient whose images are of several classes has no class of its own."""
    patients, pooled = pool_images(calibrated, subject.patients)
    if len(patients) == len(subject.patients):
        return None
    numbers, n_patients = patient_numbers(subject.patients)
    first = np.full(n_patients, -1)
    first[numbers[::-1]] = subject.labels[::-1]
    is_mixed = np.zeros(n_patients, dtype=np.bool_)
    is_mixed[numbers[subject.labels != first[numbers]]] = True
    if is_mixed.all():
        return None
    notes = subject.notes
    if is_mixed.any():
        notes = (
            *notes,
            f"{is_mixed.sum()} of {n_patients} patients are left out: their images are of several classes.",
        )
    whole = replace(
        subject,
        labels=first[~is_mixed],
        patients=patients[~is_mixed],
        predictor=f"{subject.predictor}; all images of a patient combined by their mean log probability",
        notes=notes,
    )
    before = pool_images(uncalibrated, subject.patients)[1]
    return _score(pooled[~is_mixed], before[~is_mixed], whole, seed=seed, draws=draws)


def _score(
    calibrated: Probabilities, uncalibrated: Probabilities, subject: Subject, *, seed: int, draws: int
) -> Evaluation:
    labels, patients = subject.labels, subject.patients

    def estimates(names: Sequence[str], probabilities: Probabilities) -> dict[str, Estimate | None]:
        return defined_or_none(patient_bootstrap(names, probabilities, labels, patients, draws=draws, seed=seed))

    reports = _class_reports(calibrated, subject)
    return Evaluation(
        split=subject.split,
        predictor=subject.predictor,
        images=len(labels),
        patients=len(np.unique(patients)),
        metrics=estimates(list(METRICS), calibrated),
        uncalibrated=estimates(CALIBRATION_METRICS, uncalibrated),
        classes=reports,
        confusion=confusion(calibrated, labels),
        notes=(*subject.notes, *_small_classes(reports)),
    )


def _class_reports(probabilities: Probabilities, subject: Subject) -> tuple[ClassReport, ...]:
    return tuple(
        ClassReport(
            name=scores.name,
            images=scores.images,
            patients=len(np.unique(subject.patients[subject.labels == number])),
            precision=scores.precision,
            recall=scores.recall,
            f1=scores.f1,
        )
        for number, scores in enumerate(class_scores(probabilities, subject.labels, subject.classes))
    )


def _small_classes(reports: Sequence[ClassReport]) -> list[str]:
    return [
        f"No claim for class {report.name}: {report.patients} patients have it, under {FEWEST_PATIENTS}."
        for report in reports
        if report.patients < FEWEST_PATIENTS
    ]
