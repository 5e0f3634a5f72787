import dataclasses

import numpy as np
import pytest

from consilia.bundle.evaluation import with_test
from consilia.config.recipe import EnsembleRecipe, Greedy
from consilia.ensemble.candidates import FinishedTrials
from consilia.ensemble.evaluate import Subject, score_predictions
from consilia.ensemble.fitting import fit_recipe
from consilia.ensemble.honesty import honest_report
from consilia.ensemble.selection import Truth, weighted_log_loss
from consilia.metrics.estimates import HonestReport
from consilia.metrics.scores import METRICS, softmax

RECIPE = EnsembleRecipe(name="quick", selection=Greedy(bags=3, additions=5))


def know_nothing(n_candidates=30, n_images=200):
    """Trials that know nothing."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, n_images)
    patients = np.arange(n_images)
    truth = Truth(labels=labels, patients=patients.astype(str), folds=patients % 4)
    logits = generator.normal(size=(n_candidates, n_images, 2))
    return FinishedTrials(numbers=tuple(range(10, 10 + n_candidates)), candidates=softmax(logits), truth=truth)


def fit(trials):
    return fit_recipe(RECIPE, trials.candidates, trials.truth, seed=0)


@pytest.fixture(scope="module")
def report():
    trials = know_nothing()
    return honest_report(fit(trials), everyone=trials, n_trials=75, seed=0, draws=40)


def test_each_row_says_which_predictor_it_describes(report):
    kinds = ["best_single", "in_sample", "cross_fitted", "bias_corrected"]
    assert [row.kind for row in report.rows] == kinds
    assert len({row.predictor for row in report.rows}) == 4
    assert {(row.images, row.patients) for row in report.rows} == {(200, 200)}
    assert (report.trials, report.candidates, report.draws) == (75, 30, 40)
    assert all(set(row.metrics) == set(METRICS) for row in report.rows)


def test_of_trials_that_know_nothing_only_the_in_sample_rows_look_good(report):
    area = {row.kind: row.metrics["macro_auc"] for row in report.rows}
    assert area["best_single"].value > 0.55
    assert area["in_sample"].value > 0.55
    for kind in ("cross_fitted", "bias_corrected"):
        assert area[kind].low < 0.5 < area[kind].high


def test_the_best_trial_is_named_and_scored_as_it_is(report):
    trials = know_nothing()
    best = int(np.argmin([weighted_log_loss(each, trials.truth) for each in trials.candidates]))
    row = report.rows[0]
    assert row.predictor.startswith(f"trial {trials.numbers[best]} alone")
    expected = METRICS["brier"].function(trials.candidates[best], trials.truth.labels)
    assert row.metrics["brier"].value == pytest.approx(expected)


def test_the_best_of_all_trials_counts_even_without_its_weights():
    everyone = know_nothing()
    best = int(np.argmin([weighted_log_loss(each, everyone.truth) for each in everyone.candidates]))
    left = np.delete(np.arange(30), best)
    kept = dataclasses.replace(
        everyone, numbers=tuple(10 + number for number in left), candidates=everyone.candidates[left]
    )
    report = honest_report(fit(kept), everyone=everyone, n_trials=75, seed=0, draws=3)
    assert report.candidates == 30
    assert f"trial {10 + best} alone" in report.rows[0].predictor


def test_the_test_split_is_the_last_row_once(report):
    labels = np.tile([0, 1], 40)
    subject = Subject(
        labels=labels,
        patients=np.arange(80).astype(str),
        classes=("clear", "nodule"),
        split="test",
        predictor="the shipped predictor",
    )
    probabilities = np.tile([0.6, 0.4], (80, 1))
    evaluation = score_predictions(probabilities, probabilities, subject, draws=10)
    twice = with_test(with_test(report, evaluation), evaluation)
    assert [row.kind for row in twice.rows][3:] == ["bias_corrected", "test"]
    assert twice.rows[-1].metrics == evaluation.metrics
    assert (twice.rows[-1].images, twice.rows[-1].predictor) == (80, "the shipped predictor")


def test_a_report_survives_json(report):
    assert HonestReport.model_validate_json(report.model_dump_json()) == report
