import dataclasses
import os

import numpy as np
import pytest
from joblib.externals.loky.process_executor import TerminatedWorkerError

from consilia.config.recipe import BestSingle, EnsembleRecipe, Greedy, SoftVote
from consilia.decision.combination import combine
from consilia.ensemble.bbc import bias_corrected, out_of_bag_scores
from consilia.ensemble.calibration import cross_calibrate
from consilia.ensemble.choice import choose
from consilia.ensemble.selection import Truth, cross_fit, select
from consilia.errors import RunError
from consilia.metrics.scores import METRICS, softmax
from processes import children_of

RECIPES = [BestSingle(), SoftVote(members=3), Greedy(bags=5, members=3)]
QUICK = EnsembleRecipe(name="quick", selection=Greedy(bags=3, additions=5))


def noise(*, n_candidates, n_images=200, seed=0, signal=0.0):
    """Candidates that know the labels by `signal`; 0: not at all."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, n_images)
    logits = generator.normal(size=(n_candidates, n_images, 2)) + signal * np.eye(2)[labels]
    patients = np.arange(n_images) * 2 // 3  # one or two images each
    return softmax(logits), Truth(labels=labels, patients=patients.astype(str), folds=patients % 4)


def with_draw(truth, seed=3):
    """The truth of a bootstrap sample, and of the same sample with every drawn image copied."""
    _, numbers = np.unique(truth.patients, return_inverse=True)
    n_patients = numbers.max() + 1
    drawn = np.random.default_rng(seed).multinomial(n_patients, np.full(n_patients, 1 / n_patients))[numbers]
    bag = np.flatnonzero(drawn)
    rows = np.repeat(bag, drawn[bag])
    copy = np.concatenate([np.arange(count) for count in drawn[bag]])  # each copy of a patient is a patient
    names = np.char.add(np.char.add(truth.patients[rows].astype(str), "-"), copy.astype(str))
    weighted = dataclasses.replace(truth, drawn=drawn.astype(float)).subset(drawn > 0)
    return bag, weighted, rows, Truth(labels=truth.labels[rows], patients=names, folds=truth.folds[rows])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.kind)
def test_a_draw_as_weights_selects_what_copied_images_select(recipe):
    candidates, truth = noise(n_candidates=12, signal=1.0)
    bag, weighted, rows, copied = with_draw(truth)
    first, second = (
        [select(recipe, inside, sample, seed=0), *cross_fit(recipe, inside, sample, seed=0)]
        for inside, sample in ((candidates[:, bag], weighted), (candidates[:, rows], copied))
    )
    for drawn, repeated in zip(first, second, strict=True):
        np.testing.assert_allclose(combine(candidates, drawn), combine(candidates, repeated), rtol=1e-4)


def test_a_draw_as_weights_judges_an_ensemble_as_copied_images_do():
    candidates, truth = noise(n_candidates=6, signal=1.0)
    bag, weighted, rows, copied = with_draw(truth)
    first = choose(SoftVote(members=4), candidates[:, bag], weighted, seed=0)
    second = choose(SoftVote(members=4), candidates[:, rows], copied, seed=0)
    assert first.gain == pytest.approx(second.gain)
    assert first.standard_error == pytest.approx(second.standard_error, rel=0.05)  # 2,000 draws: 1.6 %


def test_with_one_candidate_it_is_the_plain_out_of_bag_score():
    candidates, truth = noise(n_candidates=1, signal=1.0)
    recipe = EnsembleRecipe(name="one", selection=BestSingle(), calibration="none")
    scores = out_of_bag_scores(recipe, candidates, truth, metric_names=["log_loss", "macro_auc"], draws=20, seed=4)
    _, numbers = np.unique(truth.patients, return_inverse=True)
    n_patients = numbers.max() + 1
    counts = np.random.default_rng(4).multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=20)
    for name, values in scores.items():
        expected = [METRICS[name].function(candidates[0][out], truth.labels[out]) for out in (counts == 0)[:, numbers]]
        np.testing.assert_allclose(values, expected, rtol=1e-12)


@pytest.mark.parametrize("selection", [BestSingle(), Greedy(bags=3, additions=5)], ids=lambda each: each.kind)
def test_the_best_of_fifty_that_know_nothing_looks_good_and_is_not(selection):
    candidates, truth = noise(n_candidates=50)
    naive = METRICS["macro_auc"].function(
        combine(candidates, select(selection, candidates, truth, seed=0)), truth.labels
    )
    corrected = bias_corrected(
        EnsembleRecipe(name="noise", selection=selection), candidates, truth, metric_names=["macro_auc"], draws=60
    )["macro_auc"]
    assert naive > 0.55
    assert corrected.low < 0.5 < corrected.high
    assert corrected.value == pytest.approx(0.5, abs=0.04)


def test_labels_of_the_patients_left_out_reach_neither_selection_nor_calibration(monkeypatch):
    from consilia.ensemble import bbc

    candidates, truth = noise(n_candidates=8, signal=0.5)
    chosen = []

    def remember(recipe, candidates, truth, drawn, *, seed):
        flipped = dataclasses.replace(truth, labels=np.where(drawn == 0, 1 - truth.labels, truth.labels))
        chosen.append([original(recipe, candidates, facts, drawn, seed=seed) for facts in (truth, flipped)])
        return chosen[-1][0]

    original = bbc._choose_in_bag
    monkeypatch.setattr(bbc, "_choose_in_bag", remember)
    bias_corrected(QUICK, candidates, truth, metric_names=["accuracy"], draws=5)
    assert len(chosen) == 5
    for found, found_flipped in chosen:
        assert found == found_flipped


def test_the_same_seed_gives_the_same_estimate_and_another_seed_another():
    candidates, truth = noise(n_candidates=5, signal=0.5)
    first, again, other = (bias_corrected(QUICK, candidates, truth, draws=8, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_draws_that_leave_nobody_to_score_are_left_out():
    candidates, truth = noise(n_candidates=2, n_images=4)
    scores = out_of_bag_scores(QUICK, candidates, truth, metric_names=["accuracy"], draws=40)["accuracy"]
    assert 0 < np.isnan(scores).sum() < 40
    assert np.isfinite(bias_corrected(QUICK, candidates, truth, metric_names=["accuracy"], draws=40)["accuracy"].value)


@pytest.mark.parametrize("kind", ["temperature", "temperature_bias", "isotonic"])
def test_a_draw_as_weights_fits_the_calibrator_that_copied_images_fit(kind):
    candidates, truth = noise(n_candidates=1, n_images=600, signal=1.0)
    bag, weighted, rows, copied = with_draw(truth)
    first = cross_calibrate(kind, candidates[0, bag], weighted)
    second = cross_calibrate(kind, candidates[0, rows], copied)
    repeated = np.searchsorted(bag, rows)  # the drawn image that each copy is of
    np.testing.assert_allclose(first[repeated], second, atol=1e-4)


def test_a_calibrator_that_the_drawn_patients_do_not_support_leaves_the_draw_out():
    candidates, truth = noise(n_candidates=1, n_images=4000, signal=1.0)
    kept = np.flatnonzero(np.cumsum(truth.labels) <= 1000)[: len(truth.labels)]  # 1,000 positives: just enough
    truth = truth.subset(np.isin(np.arange(4000), kept))
    recipe = EnsembleRecipe(name="isotonic", selection=BestSingle(), calibration="isotonic")
    scores = out_of_bag_scores(recipe, candidates[:, kept], truth, metric_names=["brier"], draws=10)["brier"]
    assert 0 < np.isnan(scores).sum() < 10


def test_processes_score_the_draws_as_one_does_and_are_gone_afterwards(monkeypatch):
    candidates, truth = noise(n_candidates=6, signal=1.0)
    alone = out_of_bag_scores(QUICK, candidates, truth, draws=12, seed=4)
    monkeypatch.setattr("consilia.ensemble.bbc._WORTH_PROCESSES", 1)
    monkeypatch.setattr("consilia.ensemble.bbc.cpu_count", lambda: 2)
    together = out_of_bag_scores(QUICK, candidates, truth, draws=12, seed=4)
    for name in METRICS:
        np.testing.assert_array_equal(alone[name], together[name])
        assert len(np.unique(alone[name])) > 4  # draws differ, so their order is seen; an ECE may be 0 in several
    assert not [line for line in children_of(os.getpid()) if "popen_loky" in line]


def test_the_death_of_a_process_is_told_with_what_to_do(monkeypatch):
    class Dying:
        def __init__(self, n_processes):
            assert n_processes == 2

        def __call__(self, work):
            raise TerminatedWorkerError

    monkeypatch.setattr("consilia.ensemble.bbc.Parallel", Dying)
    monkeypatch.setattr("consilia.ensemble.bbc._WORTH_PROCESSES", 1)
    monkeypatch.setattr("consilia.ensemble.bbc.cpu_count", lambda: 2)
    with pytest.raises(RunError, match="nothing is trained again"):
        bias_corrected(QUICK, *noise(n_candidates=3), draws=2)
