"""Select, calibrate, write the bundle: from stored out-of-fold predictions, without training."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from consilia.bundle.document import (
    BundleDocument,
    CalibrationReport,
    FileRecord,
    Member,
    Network,
    Provenance,
    SelectionReport,
)
from consilia.bundle.evaluation import Evaluation
from consilia.bundle.store_check import fingerprints
from consilia.bundle.text import INTERNAL
from consilia.bundle.writing import write_bundle
from consilia.config.recipe import BestSingle, EnsembleRecipe
from consilia.config.record_files import read_weights_notes
from consilia.config.records import Probabilities, TrialRecord
from consilia.config.study import StudyPlan
from consilia.config.study_folder import StudyFolder
from consilia.data.folds import FoldPlan
from consilia.data.store.image_store import ImageStore
from consilia.decision.combination import combine
from consilia.decision.prior import prevalence_of
from consilia.ensemble.calibration import Calibration, choose_calibrator, cross_calibrate_members
from consilia.ensemble.choice import Choice, choose
from consilia.ensemble.evaluate import NO_PATIENTS
from consilia.ensemble.evaluation import Subject, score_predictions
from consilia.ensemble.honesty import Chosen, honest_report
from consilia.ensemble.ood import fit_gate
from consilia.ensemble.pool import Pool, keep_with_weights, load_pool
from consilia.ensemble.refits import refit_members
from consilia.ensemble.selection import combine_cross_fitted, select, weighted_log_loss
from consilia.ensemble.sizes import measure_sizes
from consilia.ensemble.uncertainty import calibrated_sets, disagreement_limit, report_safety
from consilia.predict.golden import compute_golden
from consilia.predict.networks import FoldEnsembles
from consilia.predict.weights import choose_device
from consilia.train.network_files import read_weights
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
    everyone = load_pool(trials, folder=folder, store=store, folds=folds)
    is_fast = recipe.build == "fast"
    pool = everyone if is_fast else keep_with_weights(everyone, folder=folder, k=folds.k)
    choice = choose(recipe.selection, pool.candidates, pool.truth, seed=plan.seed)
    out_of_fold = combine(pool.candidates, choice.combination)
    calibration = choose_calibrator(recipe.calibration, out_of_fold, pool.truth)
    sets = None if is_fast else calibrated_sets(recipe.safety, out_of_fold, calibration.calibrator, pool.truth)
    uncalibrated, calibrated = _cross_fitted(pool, choice, calibration)
    chosen = Chosen(recipe=recipe, pool=pool, choice=choice, calibration=calibration, cross_fitted=calibrated)
    honesty = honest_report(chosen, everyone=everyone, n_trials=len(trials), seed=plan.seed)
    ship = refit_members if is_fast else _members
    members, weights = ship(pool, choice, folder, folds)
    gate, no_gate = fit_gate(members, weights, store=store, folds=folds, seed=plan.seed, device=choose_device("auto"))
    warnings = _warnings(store, folds, _without_weights(everyone, pool, recipe, seed=plan.seed)) + no_gate
    note = INTERNAL[recipe.build]
    evaluation = _evaluate_cross_fitted(pool, uncalibrated, calibrated, store, note=note, seed=plan.seed)
    document = BundleDocument(
        consilia=__version__,
        name=f"{plan.name}-{recipe.name}",
        classes=store.classes,
        reading=store.manifest.reading,
        kinds=store.manifest.kinds,
        modality=plan.data.modality,
        build=recipe.build,
        members=members,
        calibrator=calibration.calibrator,
        sizes=measure_sizes(
            recipe.calibration, pool.candidates, choice.combination, choice.fold_combinations, pool.truth
        ),
        prevalence=tuple(prevalence_of(pool.truth.labels, pool.truth.patients, len(store.classes)).tolist()),
        safety=report_safety(
            recipe.safety,
            sets,
            calibrated,
            pool.truth,
            store.classes,
            disagreement=disagreement_limit(pool.candidates, choice.combination.shares, pool.truth.patients),
        ),
        honesty=honesty,
        gate=None if gate is None else gate.report,
        selection=_selection_report(pool, choice),
        calibration=_calibration_report(calibration),
        evaluations=(evaluation,),
        warnings=warnings,
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
        ood=None if gate is None else gate.reference,
    )
    return bundle


def _without_weights(everyone: Pool, pool: Pool, recipe: EnsembleRecipe, *, seed: int) -> list[int]:
    """Return the trials that would be chosen if the weights of all were still on disk, but cannot be."""
    if pool.numbers == everyone.numbers:
        return []
    wanted = select(recipe.selection, everyone.candidates, everyone.truth, seed=seed)
    chosen = [everyone.numbers[place] for place in wanted.members]
    return [number for number in chosen if number not in pool.numbers]


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


def _members(
    pool: Pool, choice: Choice, folder: StudyFolder, folds: FoldPlan
) -> tuple[tuple[Member, ...], Mapping[str, Path]]:
    """Return the members, and the weights file of each of their networks by its name in the bundle."""
    members, files = [], {}
    for place in choice.combination.members:
        number, networks = pool.numbers[place], []
        for fold in range(folds.k):
            source = folder.trial(number).fold(fold).weights
            model, preprocessing, _ = read_weights(source)
            name = f"members/trial-{number}-fold-{fold}.safetensors"
            networks.append(Network(file=name, fold=fold, preprocessing=preprocessing))
            files[name] = source
        weight = choice.combination.weights[place]
        members.append(Member(trial=number, weight=weight, model=model, networks=tuple(networks)))
    return tuple(members), files


def _calibration_report(calibration: Calibration) -> CalibrationReport:
    return CalibrationReport(
        reason=calibration.reason, loss_before=calibration.loss_before, loss_after=calibration.loss_after
    )


def _selection_report(pool: Pool, choice: Choice) -> SelectionReport:
    single = select(BestSingle(), pool.candidates, pool.truth, seed=0)
    return SelectionReport(
        reason=choice.reason,
        candidates=len(pool.numbers),
        best_single_loss=weighted_log_loss(combine(pool.candidates, single), pool.truth),
        in_sample_loss=weighted_log_loss(combine(pool.candidates, choice.combination), pool.truth),
        gain=choice.gain,
        standard_error=choice.standard_error,
    )


def _cross_fitted(pool: Pool, choice: Choice, calibration: Calibration) -> tuple[Probabilities, Probabilities]:
    """Return each image by an ensemble that was selected without its fold, and by one calibrated without it too."""
    uncalibrated = combine_cross_fitted(pool.candidates, choice.fold_combinations, pool.truth)
    kind = calibration.calibrator.kind
    return uncalibrated, cross_calibrate_members(kind, pool.candidates, choice.fold_combinations, pool.truth)


def _evaluate_cross_fitted(
    pool: Pool, uncalibrated: Probabilities, calibrated: Probabilities, store: ImageStore, *, note: str, seed: int
) -> Evaluation:
    subject = Subject(
        labels=pool.truth.labels,
        patients=pool.truth.patients,
        classes=store.classes,
        split="cross_fitted",
        predictor="fold ensembles, each selected and calibrated without the fold that it is scored on",
        notes=(note,),
    )
    return score_predictions(calibrated, uncalibrated, subject, seed=seed)


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
