"""The comparison of methods: its own statistics against oracles, and a run on drawn trials."""

from pathlib import Path

import numpy as np
import pytest

from benchmark_runs import run
from consilia.config.recipe import Greedy
from consilia.decision.combination import LinearPool
from consilia.ensemble.selection import Truth
from consilia.metrics.scores import METRICS
from shared.half_draws import half_draws
from shared.method_sides import aucs, debiased_square, select_on_auc, thresholds
from shared.trials_file import RecordedTrials, write_trials


def draw_trials(n_trials=6, n_pool=150, n_held_out=60, k=5):
    generator = np.random.default_rng(0)
    groups = np.concatenate([np.arange(n_pool) // 2, 1000 + np.arange(n_held_out) // 2])  # two images each
    labels = generator.integers(0, 2, len(groups))
    signal = 3.0 * (2 * labels - 1) + 2 * generator.normal(size=len(labels))
    margins = generator.normal(size=(n_trials, k, len(labels))) + signal
    logits = np.stack([np.zeros_like(margins), margins], axis=-1).astype(np.float32)
    folds = groups[:n_pool] % k
    return RecordedTrials(
        trials=tuple({"number": number, "space": "tiny"} for number in range(n_trials)),
        notes={"epochs": 1},
        labels=labels[:n_pool],
        groups=groups[:n_pool],
        folds=folds,
        oof=logits[:, folds, np.arange(n_pool)],
        held_out_labels=labels[n_pool:],
        held_out_groups=groups[n_pool:],
        held_out=logits[:, :, n_pool:],
    )


def test_methods_prints_all_sides_with_differences_to_what_ships(tmp_path: Path):
    path = tmp_path / "trials.parquet"
    write_trials(path, draw_trials())
    figures = run("methods.py", "--draws=2", "--small=80", f"--trials={path}")
    assert (figures["n_trials"], figures["n_draws"], figures["recorded"]) == (6, 2, {"epochs": 1})
    assert len(figures["calibration"]) == 2 * 2 * 9
    assert len(figures["sets"]) == 2 * 2 * 2 * 3
    assert len(figures["thresholds"]) == 2 * 2 * 2
    assert len(figures["selection"]) == 2 * 6
    for row in figures["calibration"]:
        assert (row["difference"]["log_loss"] == [0, 0, 0]) or row["side"] != "temperature, log pool"
    for row in figures["sets"]:
        assert row["figures"]["coverage"][0] > 0.5
    for row in figures["thresholds"]:  # 59 patients are needed, and there are fewer
        assert row["figures"]["sensitivity_1"] == [None, None, None]
    for row in figures["selection"]:
        of = {name: mean for name, (mean, _, _) in row["figures"].items()}
        assert of["optimism_log_loss"] == pytest.approx(of["single_log_loss"] - of["oof_log_loss"])
        assert of["optimism_macro_auc"] == pytest.approx(of["oof_macro_auc"] - of["single_macro_auc"])


def test_a_draw_takes_whole_groups_and_half_of_the_trials():
    recorded = draw_trials()
    whole = {str(group) for group in recorded.groups}
    for draw in half_draws(recorded, draws=3, pool_images=None):
        assert (len(draw.candidates), len(draw.fold_candidates)) == (3, 3)
        assert draw.candidates.shape[1] == len(draw.truth.labels) == 76  # 38 of 75 groups
        assert draw.fold_candidates.shape[2] == len(draw.held_out.labels) == 30
        assert set(draw.truth.patients) < whole
        assert not set(draw.truth.patients) & set(draw.held_out.patients)
        assert (np.unique(draw.truth.patients, return_counts=True)[1] == 2).all()


def test_the_spread_of_halves_is_the_standard_error_of_the_whole():
    recorded = draw_trials(n_trials=2, n_held_out=400)
    values = recorded.held_out_labels.reshape(-1, 2).mean(axis=1)
    means = [draw.held_out.labels.mean() for draw in half_draws(recorded, draws=400, pool_images=10)]
    assert np.std(means) == pytest.approx(values.std(ddof=1) / np.sqrt(len(values)), rel=0.1)


def test_the_debiased_square_is_0_on_average_where_confidences_are_true_and_else_the_gaps_square():
    def mean_square(gap):
        generator = np.random.default_rng(0)
        found = []
        for _ in range(400):
            confidence = generator.uniform(0.6, 0.9, 300)
            labels = (generator.random(300) < confidence - gap).astype(np.int64)
            found.append(debiased_square(np.column_stack([1 - confidence, confidence]), labels))
        return np.mean(found), np.std(found) / 20

    for gap in (0.0, 0.1):
        mean, error = mean_square(gap)
        assert abs(mean - gap**2) < 3 * error


def test_the_area_under_the_curve_of_many_rows_is_the_metrics():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 200)
    scores = np.round(generator.random((5, 200)), 1)  # many ties
    expected = [METRICS["macro_auc"].function(np.column_stack([1 - row, row]), labels) for row in scores]
    np.testing.assert_allclose(aucs(scores, labels), expected)


def test_greedy_on_the_area_never_ends_below_the_best_candidate_of_its_bags():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 300)
    second = np.clip(0.5 + 0.1 * (2 * labels - 1) + 0.2 * generator.normal(size=(4, 300)), 0, 1)
    candidates = np.stack([1 - second, second], axis=2)
    truth = Truth(labels=labels, patients=np.arange(300).astype(str), folds=np.arange(300) % 5)
    weights = select_on_auc(Greedy(bags=1, members=5), candidates, truth, seed=0)
    assert weights.sum() == pytest.approx(1)
    assert aucs((weights @ second)[None], labels)[0] >= aucs(second, labels).max()


def test_thresholds_that_were_chosen_out_of_fold_find_nearly_their_share_of_the_same_kind_of_images():
    (draw,) = half_draws(draw_trials(n_pool=800, n_held_out=800), draws=1, pool_images=None)
    votes = LinearPool(weights=(1 / len(draw.candidates),) * len(draw.candidates))
    found = thresholds(draw, choose=lambda draw: votes)
    for figures in found.values():
        assert figures["sensitivity_1"] >= 0.93
        assert figures["sensitivity_0"] >= 0.93
