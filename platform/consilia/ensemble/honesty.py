"""One search told in several ways, from the most flattering to the most honest. Source: docs/methods.md section 8."""

from typing import Literal

import numpy as np

from consilia.bundle.text import describe_trials
from consilia.config.recipe import BestSingle
from consilia.config.records import Probabilities
from consilia.ensemble.bbc import DRAWS, bias_corrected
from consilia.ensemble.candidates import FinishedTrials
from consilia.ensemble.fitting import FittedRecipe
from consilia.ensemble.selection import Truth, select
from consilia.metrics.bootstrap import patient_bootstrap
from consilia.metrics.estimates import HonestReport, HonestRow, defined_or_none
from consilia.metrics.scores import METRICS


def honest_report(
    fitted: FittedRecipe, *, everyone: FinishedTrials, n_trials: int, seed: int, draws: int = DRAWS
) -> HonestReport:
    """Return the rows of the report; all describe single folds' networks, on images that they never saw.

    Args:
        fitted: What is shipped.
        everyone: All trials that finished every fold, whether their weights are still on disk or not: those that are
            left were kept because they looked best, so the best of them alone would hide how many it was picked from.
        n_trials: Trials of the search in any state.
        seed: Of selection and bootstraps.
        draws: Bootstrap samples of the bias-corrected row.
    """
    recipe, truth = fitted.recipe, fitted.truth
    (best,) = select(BestSingle(), everyone.candidates, everyone.truth, seed=seed).members
    corrected = bias_corrected(recipe, everyone.candidates, everyone.truth, draws=draws, seed=seed)
    trials = describe_trials(recipe.build, n_members=len(fitted.choice.combination.members))
    rows = (
        _row(
            "best_single",
            f"trial {everyone.numbers[best]} alone, before calibration, on the images that made it the best of "
            f"{len(everyone.numbers)}: flattering",
            everyone.candidates[best],
            truth,
            seed=seed,
        ),
        _row(
            "in_sample",
            f"{trials}, calibrated, on the images that they and the calibrator were chosen on: flattering",
            fitted.calibrated,
            truth,
            seed=seed,
        ),
        _row(
            "cross_fitted",
            "fold ensembles, each selected and calibrated without the fold that it is scored on",
            fitted.cross_fitted,
            truth,
            seed=seed,
        ),
        HonestRow(
            kind="bias_corrected",
            predictor=f"whatever the recipe chooses on a bootstrap sample of the patients, on the patients left out; "
            f"mean of {draws} draws",
            images=len(truth.labels),
            patients=len(np.unique(truth.patients)),
            metrics=defined_or_none(corrected),
        ),
    )
    return HonestReport(trials=n_trials, candidates=len(everyone.numbers), draws=draws, rows=rows)


def _row(
    kind: Literal["best_single", "in_sample", "cross_fitted"],
    predictor: str,
    probabilities: Probabilities,
    truth: Truth,
    *,
    seed: int,
) -> HonestRow:
    intervals = patient_bootstrap(list(METRICS), probabilities, truth.labels, truth.patients, seed=seed)
    return HonestRow(
        kind=kind,
        predictor=predictor,
        images=len(truth.labels),
        patients=len(np.unique(truth.patients)),
        metrics=defined_or_none(intervals),
    )
