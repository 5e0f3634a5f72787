"""From finished trials to a bundle, its test metrics and the report: seconds, and no training."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from consilia.bundle.document import BundleDocument
from consilia.bundle.evaluation import Evaluation
from consilia.bundle.reading import read_bundle
from consilia.bundle.writing import record_evaluation
from consilia.config.frozen import near_match
from consilia.config.recipe import EnsembleRecipe
from consilia.config.record_files import trial_to_json
from consilia.config.records import Confirmation, TrialRecord
from consilia.ensemble.build import build_ensemble
from consilia.ensemble.evaluate import evaluate
from consilia.errors import BundleError, StudyError
from consilia.files import write_json
from consilia.metrics.estimates import Estimate
from consilia.metrics.subgroups import Subgroups
from consilia.predict.loading import load_predictor
from consilia.report.confirmations import confirmations_to_json
from consilia.study.end import read_end
from consilia.study.image_scores import (
    find_gaps,
    measure_cross_fitted,
    measure_test,
    read_scores,
    read_subgroups,
    write_scores,
)
from consilia.study.opened import OpenStudy
from consilia.study.test_access import log_opening
from consilia.tune.ledger import read_ledger, seconds_by_purpose
from consilia.tune.stored import leaderboard, read_confirmations

logger = logging.getLogger(__name__)

_EVALUATION_COLUMNS = ["split", "unit", "metric", "value", "low", "high", "uncalibrated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResult:
    """What a study ends with."""

    bundle: Path
    report: Path  # JSON: the leaderboard and every ensemble's metrics
    page: Path  # HTML: the report for people
    document: BundleDocument  # what the bundle says of itself, its evaluations among it
    metric: str  # the study's
    trials: tuple[TrialRecord, ...]  # finished ones, best first
    ended_by: str  # which limit ended the search
    seconds: Mapping[str, float]  # of the search, by purpose: see `tune.ledger`
    confirmations: tuple[Confirmation, ...] = ()  # of the best trials, where the plan asks for them


def combine(study: OpenStudy, recipe: EnsembleRecipe, *, test: bool = False) -> StudyResult:
    """Build the recipe's ensemble and write the report; the plan's own is evaluated on the locked test split.

    A bundle that this study has built, and evaluated where it is to be, by the same recipe is kept.

    Args:
        study: Its search has finished a trial.
        recipe: How to combine.
        test: Open the locked test split for another recipe than the plan's, too.

    Raises:
        RunError: No trial has finished.
    """
    plan, folder, folds = study.plan, study.folder, study.folds
    bundle = folder.bundle(recipe.name)
    if not is_built(study, recipe):
        trials = list(study.records().values())
        build_ensemble(trials, plan=plan, recipe=recipe, folder=folder, store=study.store, folds=folds)
    if len(folds.test) and not is_tested(read_bundle(bundle)):
        if test or recipe == plan.ensemble:
            predictor = load_predictor(bundle)
            remark = log_opening(folder, predictor.document)
            found = evaluate(predictor, study.store, folds.test, seed=plan.seed, bound=folds.bound)
            record_evaluation(bundle, found.with_note(remark))
            write_scores(study, predictor.document, measure_test(study, predictor))
        else:
            study.note(f"the locked test stays closed: {recipe.name} is not the study's own recipe; --test opens it")
    result = read_result(study, recipe.name)
    _write_report(study, result, _subgroups(study, result.document))
    return result


def read_result(study: OpenStudy, recipe: str) -> StudyResult:
    """Read what the study has ended with: the ensemble of a recipe, by its name, and the search that it is from.

    Raises:
        StudyError: The study has no such ensemble; those that it has are named.
        BundleError: The ensemble's bundle is damaged.
    """
    folder = study.folder
    board = leaderboard(study.records(), metric=study.plan.search.metric)
    end = read_end(folder)
    return StudyResult(
        bundle=find_bundle(study, recipe),
        report=folder.report,
        page=folder.page,
        document=read_bundle(folder.bundle(recipe)),
        metric=study.plan.search.metric,
        trials=tuple(board),
        ended_by="" if end is None else end.ended_by,
        confirmations=tuple(read_confirmations(folder, board, plan=study.plan)),
        seconds=seconds_by_purpose(read_ledger(folder.ledger)) if folder.ledger.exists() else {},
    )


def find_bundle(study: OpenStudy, recipe: str) -> Path:
    """Return the folder of a recipe's ensemble.

    Raises:
        StudyError: The study has no such ensemble; those that it has are named.
    """
    study.refresh(bundle=recipe)
    bundle = study.folder.bundle(recipe)
    if not bundle.is_dir():
        known = sorted(path.name for path in bundle.parent.glob("*") if path.is_dir())
        raise StudyError(
            f"{study.folder.root} has no ensemble {recipe!r}.{near_match(recipe, known)} Ensembles there: "
            f"{', '.join(known) or 'none'}. `consilia ensemble {study.plan.name} --recipe {recipe}` builds it, in "
            f"Python study.fit({recipe!r})."
        )
    return bundle


def evaluation_frame(document: BundleDocument) -> pd.DataFrame:
    """Return an ensemble's evaluations as `Study.evaluate` says: one row a split, unit and metric."""
    rows = [row for evaluation in document.evaluations for row in _evaluation_rows(evaluation)]
    return pd.DataFrame(rows, columns=_EVALUATION_COLUMNS)


def is_built(study: OpenStudy, recipe: EnsembleRecipe) -> bool:
    """Say whether the recipe's bundle is whole, and of all finished trials."""
    bundle = study.folder.bundle(recipe.name)
    if not bundle.exists():
        return False
    try:
        document = read_bundle(bundle)
    except BundleError as error:
        logger.warning("%s is built again: %s", bundle, error)
        return False
    source = document.provenance
    n_finished = sum(record.state == "finished" for record in study.records().values())
    built = (source.study_digest, source.recipe, document.honesty.candidates)
    return built == (study.plan.digest, recipe, n_finished)


def is_tested(document: BundleDocument) -> bool:
    """Say whether the ensemble was evaluated on a locked test split."""
    return any(evaluation.split == "test" for evaluation in document.evaluations)


def _subgroups(study: OpenStudy, document: BundleDocument) -> tuple[Subgroups, ...]:
    """Return the ensemble's scores by columns of the data; its predictions are made where they are missing."""
    scores = read_scores(study, document)
    stored = read_subgroups(study, document)
    if scores is None or (scores.split == "test") != is_tested(document):
        if is_tested(document):  # by a consilia that did not keep them
            predictor = load_predictor(study.folder.bundle(document.provenance.recipe.name))
            log_opening(study.folder, document)
            scores = measure_test(study, predictor)
        else:
            scores = measure_cross_fitted(study, document)
        write_scores(study, document, scores)
        stored = None
    return find_gaps(study, scores) if stored is None else stored


def _write_report(study: OpenStudy, result: StudyResult, subgroups: Sequence[Subgroups]) -> None:
    """Write report.json, keeping the ensembles that other recipes have left there."""
    plan, folder, document = study.plan, study.folder, result.document
    ensembles: dict[str, Any] = {}
    if folder.report.exists():
        ensembles = json.loads(folder.report.read_text(encoding="utf-8"))["ensembles"]
    ensembles[document.provenance.recipe.name] = {
        "bundle": str(folder.bundle(document.provenance.recipe.name)),
        "build": document.build,
        "members": {str(member.trial): member.weight for member in document.members},
        "selection": document.selection.model_dump(mode="json"),
        "calibration": document.calibration.model_dump(mode="json"),
        "honesty": document.honesty.model_dump(mode="json"),
        "safety": document.safety.model_dump(mode="json"),
        "gate": None if document.gate is None else document.gate.model_dump(mode="json"),
        "evaluations": [evaluation.to_json() for evaluation in document.evaluations],
        "subgroups": [each.model_dump(mode="json") for each in subgroups],
        "warnings": list(document.warnings),
    }
    report = {
        "study": plan.name,
        "digest": plan.digest,
        "metric": plan.search.metric,
        "search": {
            "ended_by": result.ended_by,
            "seconds": dict(result.seconds),
            "ledger": str(folder.ledger),
        },
        "confirmations": confirmations_to_json(result.confirmations, metric=plan.search.metric),
        "trials": [trial_to_json(record) for record in study.records().values()],
        "ensembles": ensembles,
    }
    write_json(folder.report, report)


def _evaluation_rows(evaluation: Evaluation, unit: str = "image") -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = []
    for metric, estimate in evaluation.metrics.items():
        before = evaluation.uncalibrated.get(metric)
        rows.append(
            {
                **{"split": evaluation.split, "unit": unit, "metric": metric},
                **_numbers(estimate),
                "uncalibrated": np.nan if before is None else before.value,
            }
        )
    if evaluation.by_patient is not None:
        rows += _evaluation_rows(evaluation.by_patient, "patient")
    return rows


def _numbers(estimate: Estimate | None) -> dict[str, float]:
    names = ("value", "low", "high")
    return {name: np.nan if estimate is None else getattr(estimate, name) for name in names}
