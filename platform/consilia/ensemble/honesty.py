"""One search told in several ways, from the most flattering to the most honest. Source: docs/methods.md section 8."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from consilia.bundle.text import describe_trials
from consilia.config.recipe import BestSingle, EnsembleRecipe
from consilia.config.records import Probabilities
from consilia.decision.calibrators import calibrate
from consilia.decision.combination import combine
from consilia.ensemble.bbc import DRAWS, bias_corrected
from consilia.ensemble.calibration import Calibration
from consilia.ensemble.choice import Choice
from consilia.ensemble.pool import Pool
from consilia.ensemble.selection import select
from consilia.metrics.bootstrap import patient_bootstrap
from consilia.metrics.estimates import HonestReport, HonestRow, defined_or_none
from consilia.metrics.scores import METRICS


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What a recipe chose, and from what."""

    recipe: EnsembleRecipe
    pool: Pool  # that could be shipped
    choice: Choice  # from `pool`
    calibration: Calibration  # of the choice
    cross_fitted: Probabilities  # each image by an ensemble selected and calibrated without its fold


def honest_report(chosen: Chosen, *, everyone: Pool, n_trials: int, seed: int, draws: int = DRAWS) -> HonestReport:
    """Return the rows of the report; all describe single folds' networks, on images that they never saw.

    Args:
        chosen: What is shipped.
        everyone: All trials that finished every fold, whether their weights are still on disk or not: those that are
            left were kept because they looked best, so the best of them alone would hide how many it was picked from.
        n_trials: Trials of the search in any state.
        seed: Of selection and bootstraps.
        draws: Bootstrap samples of the bias-corrected row.
    """
    pool, choice, calibrator = chosen.pool, chosen.choice, chosen.calibration.calibrator
    (best,) = select(BestSingle(), everyone.candidates, everyone.truth, seed=seed).members
    shipped = calibrate(calibrator, combine(pool.candidates, choice.combination))
    corrected = bias_corrected(chosen.recipe, everyone.candidates, everyone.truth, draws=draws, seed=seed)
    trials = describe_trials(chosen.recipe.build, n_members=len(choice.combination.members))
    rows = (
        _row(
            "best_single",
            f"trial {everyone.numbers[best]} alone, before calibration, on the images that made it the best of "
            f"{len(everyone.numbers)}: flattering",
            everyone.candidates[best],
            pool,
            seed=seed,
        ),
        _row(
            "in_sample",
            f"{trials}, calibrated, on the images that they and the calibrator were chosen on: flattering",
            shipped,
            pool,
            seed=seed,
        ),
        _row(
            "cross_fitted",
            "fold ensembles, each selected and calibrated without the fold that it is scored on",
            chosen.cross_fitted,
            pool,
            seed=seed,
        ),
        HonestRow(
            kind="bias_corrected",
            predictor=f"whatever the recipe chooses on a bootstrap sample of the patients, on the patients left out; "
            f"mean of {draws} draws",
            images=len(pool.truth.labels),
            patients=len(np.unique(pool.truth.patients)),
            metrics=defined_or_none(corrected),
        ),
    )
    return HonestReport(trials=n_trials, candidates=len(everyone.numbers), draws=draws, rows=rows)


def _row(
    kind: Literal["best_single", "in_sample", "cross_fitted"],
    predictor: str,
    probabilities: Probabilities,
    pool: Pool,
    *,
    seed: int,
) -> HonestRow:
    labels, patients = pool.truth.labels, pool.truth.patients
    intervals = patient_bootstrap(list(METRICS), probabilities, labels, patients, seed=seed)
    return HonestRow(
        kind=kind,
        predictor=predictor,
        images=len(labels),
        patients=len(np.unique(patients)),
        metrics=defined_or_none(intervals),
    )
