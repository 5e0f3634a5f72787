"""Select, calibrate, write the bundle: from stored out-of-fold predictions, without training."""

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from consilia.bundle.document import (
    BundleDocument,
    CalibrationReport,
    FileRecord,
    Provenance,
    SelectionReport,
)
from consilia.bundle.evaluation import Evaluation
from consilia.bundle.store_check import fingerprints
from consilia.bundle.text import INTERNAL
from consilia.bundle.writing import write_bundle
from consilia.config.recipe import BestSingle, EnsembleRecipe
from consilia.config.record_files import read_weights_notes
from consilia.config.records import TrialRecord
from consilia.config.study import StudyPlan
from consilia.config.study_folder import StudyFolder
from consilia.data.folds import FoldPlan
from consilia.data.store.image_store import ImageStore
from consilia.decision.combination import LinearPool, combine
from consilia.decision.prior import prevalence_of
from consilia.decision.review import SafetyReport
from consilia.decision.sets import CalibrationScores
from consilia.ensemble.calibration import Calibration
from consilia.ensemble.candidates import FinishedTrials, keep_with_weights, load_candidates
from consilia.ensemble.evaluate import NO_PATIENTS, Subject, score_predictions
from consilia.ensemble.fitting import FittedRecipe, fit_recipe, measure_sizes
from consilia.ensemble.honesty import honest_report
from consilia.ensemble.members import ship_folds, ship_refits
from consilia.ensemble.ood import fit_ood
from consilia.ensemble.selection import select, weighted_log_loss
from consilia.ensemble.uncertainty import calibrate_sets, disagreement_limit, report_safety
from consilia.predict.golden import compute_golden
from consilia.predict.networks import FoldEnsembles
from consilia.version import __version__

PACKAGES = ("torch", "timm", "numpy", "scikit-learn", "scipy", "safetensors", "pillow")


def build_ensemble(
    trials: Sequence[TrialRecord],
    *,
    plan: StudyPlan,
    recipe: EnsembleRecipe,
    folder: StudyFolder,
    store: ImageStore,
    folds: FoldPlan,
) -> Path:
    """Select members, calibrate them, and write the bundle of this recipe.

    Only trials that finished every fold can be chosen. A max build ships their folds' networks, so it chooses among
    those whose weights are still on disk; the bundle's warnings say when that changed the choice. A fast build ships
    their refits.

    Args:
        trials: Of the study, in any state.
        plan: The study's plan.
        recipe: How to combine; not necessarily the plan's own.
        folder: Of the study.
        store: The prepared data set.
        folds: Of the study.

    Returns:
        Folder of the bundle.

    Raises:
        RunError: No trial finished, none has its weights, or a chosen one has no refit.
        StudyError: A trial's files are damaged or of other folds.
    """
    everyone = load_candidates(trials, folder=folder, store=store, folds=folds)
    is_fast = recipe.build == "fast"
    finished = everyone if is_fast else keep_with_weights(everyone, folder=folder, k=folds.k)
    fitted = fit_recipe(recipe, finished.candidates, finished.truth, seed=plan.seed)
    chosen = _chosen(finished.numbers, fitted.choice.combination)
    sets = None if is_fast else calibrate_sets(fitted.calibrated, fitted.truth, alpha=recipe.safety.alpha)
    names = {trial.number: trial.hyperparameters.architecture for trial in trials}
    members, weights = (ship_refits if is_fast else ship_folds)(chosen, names, folder, folds)
    ood, no_ood = fit_ood(store, folds, seed=plan.seed)
    document = BundleDocument(
        consilia=__version__,
        name=f"{plan.name}-{recipe.name}",
        classes=store.classes,
        reading=store.manifest.reading,
        kinds=store.manifest.kinds,
        modality=plan.data.modality,
        build=recipe.build,
        members=members,
        calibrator=fitted.calibration.calibrator,
        sizes=measure_sizes(fitted),
        prevalence=tuple(prevalence_of(fitted.truth.labels, fitted.truth.patients, len(store.classes)).tolist()),
        safety=_report_safety(fitted, sets, store.classes),
        honesty=honest_report(fitted, everyone=everyone, n_trials=len(trials), seed=plan.seed),
        gate=None if ood is None else ood.report,
        selection=_selection_report(fitted),
        calibration=_calibration_report(fitted.calibration),
        evaluations=(_evaluate_cross_fitted(fitted, store, seed=plan.seed),),
        warnings=_warnings(store, folds, _without_weights(everyone, finished, recipe, seed=plan.seed)) + no_ood,
        provenance=_provenance(plan, recipe, folder, store, folds),
        environment={},  # `write_bundle` fills in these two
        files=dict.fromkeys(weights, FileRecord(bytes=0, sha256="0" * 64)),
    )
    bundle = folder.bundle(recipe.name)
    networks = FoldEnsembles(members, weights, combination=document.combination, device=torch.device("cpu"))
    write_bundle(
        bundle,
        document,
        weights,
        golden=compute_golden(networks, document),
        seen=fingerprints(store, folds.pool),
        sets=sets,
        ood=None if ood is None else ood.reference,
    )
    return bundle


def _report_safety(fitted: FittedRecipe, sets: CalibrationScores | None, classes: Sequence[str]) -> SafetyReport:
    limit = disagreement_limit(fitted.candidates, fitted.choice.combination.shares, fitted.truth.patients)
    return report_safety(fitted.recipe.safety, sets, fitted.cross_fitted, fitted.truth, classes, disagreement=limit)


def _chosen(numbers: Sequence[int], combination: LinearPool) -> dict[int, float]:
    """Return the weight of each chosen trial, by its number."""
    return {numbers[place]: combination.weights[place] for place in combination.members}


def _without_weights(everyone: FinishedTrials, kept: FinishedTrials, recipe: EnsembleRecipe, *, seed: int) -> list[int]:
    """Return the trials that would be chosen if the weights of all were still on disk, but cannot be."""
    if kept.numbers == everyone.numbers:
        return []
    wanted = select(recipe.selection, everyone.candidates, everyone.truth, seed=seed)
    return [number for number in _chosen(everyone.numbers, wanted) if number not in kept.numbers]


def _warnings(store: ImageStore, folds: FoldPlan, without_weights: Sequence[int]) -> tuple[str, ...]:
    warnings = []
    if not store.manifest.has_patients:
        warnings.append(NO_PATIENTS)
    if len(folds.dropped):
        warnings.append(
            f"{len(folds.dropped)} training images were left out because they share a patient or a picture with "
            "test images."
        )
    if len(folds.kept):
        warnings.append(
            f"{len(folds.kept)} training images share a patient or a picture with {len(folds.bound)} of the "
            f"{len(folds.test)} test images, by on_leak: keep; test numbers may flatter."
        )
    if without_weights:
        numbers = ", ".join(map(str, without_weights))
        warnings.append(
            f"The selection would have chosen trials {numbers} too, but their weights are no longer on disk: "
            "raise search.keep_weights for the next search."
        )
    return tuple(warnings)


def _calibration_report(calibration: Calibration) -> CalibrationReport:
    return CalibrationReport(
        reason=calibration.reason, loss_before=calibration.loss_before, loss_after=calibration.loss_after
    )


def _selection_report(fitted: FittedRecipe) -> SelectionReport:
    candidates, truth, choice = fitted.candidates, fitted.truth, fitted.choice
    single = select(BestSingle(), candidates, truth, seed=0)
    return SelectionReport(
        reason=choice.reason,
        candidates=len(candidates),
        best_single_loss=weighted_log_loss(combine(candidates, single), truth),
        in_sample_loss=weighted_log_loss(fitted.out_of_fold, truth),
        gain=choice.gain,
        standard_error=choice.standard_error,
    )


def _evaluate_cross_fitted(fitted: FittedRecipe, store: ImageStore, *, seed: int) -> Evaluation:
    subject = Subject(
        labels=fitted.truth.labels,
        patients=fitted.truth.patients,
        classes=store.classes,
        split="cross_fitted",
        predictor="fold ensembles, each selected and calibrated without the fold that it is scored on",
        notes=(INTERNAL[fitted.recipe.build],),
    )
    return score_predictions(fitted.cross_fitted, fitted.cross_fitted_uncalibrated, subject, seed=seed)


def _provenance(
    plan: StudyPlan, recipe: EnsembleRecipe, folder: StudyFolder, store: ImageStore, folds: FoldPlan
) -> Provenance:
    return Provenance(
        study=plan.name,
        study_digest=plan.digest,
        data=plan.data.name,
        data_digest=store.digest,
        folds_digest=folds.digest,
        recipe=recipe,
        packages={"consilia": __version__, **{name: version(name) for name in PACKAGES}},
        weights=read_weights_notes(folder.weights),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
