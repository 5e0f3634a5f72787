"""Every benchmark runs on tiny input and ends with one JSON line; none of its figures is asserted."""

import os
import shutil
from pathlib import Path

import pytest

from benchmark_runs import run

pytestmark = pytest.mark.slow("measures for minutes; mypy checks every call that a benchmark makes")


@pytest.mark.ray
def test_trial_overhead_prints_both_sides_and_their_ratio(short_tmp: Path):
    figures = run("trial_overhead.py", "--slot-trials=3", "--nested-trials=1", RAY_TMPDIR=str(short_tmp))
    assert (figures["n_slot"], figures["n_nested"]) == (2, 1)
    assert figures["ratio"] == pytest.approx(figures["nested_start_s"] / figures["slot_start_s"])
    assert figures["machine"]["cpus"] == os.cpu_count()


@pytest.mark.ray
def test_startup_prints_the_seconds_of_both_sides_and_what_runs_beside_the_workers(short_tmp: Path):
    figures = run("startup.py", RAY_TMPDIR=str(short_tmp))
    assert 0 < figures["loop_s"] < figures["last_slot_s"]
    assert figures["kinds"]["RayTrainWorker"][0] == 2
    assert figures["helpers_mib_per_slot"] > 0


@pytest.mark.ray
def test_gpu_search_prints_what_its_slots_did(short_tmp: Path):
    figures = run("gpu_search.py", RAY_TMPDIR=str(short_tmp))
    assert 0 < figures["first_batch_s"] < figures["seconds"]
    assert 0 < figures["training_share"] <= figures["training_share_after_start_up"] <= 1
    assert figures["images_per_s"] > 0


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_chaos_kills_and_finds_the_result_equal(short_tmp: Path):
    figures = run("chaos.py", "--minutes=0.4", RAY_TMPDIR=str(short_tmp), timeout=880)
    assert figures["equal"] is True
    assert sum(figures["kills"].values()) >= 1
    assert figures["folds_finished"] == figures["folds_finished_in_peace"] > 0
    assert (figures["folds_repeated"], figures["folds_differing"], figures["processes_left"]) == (0, 0, 0)


def test_prepare_prints_both_sides_of_each_format_and_their_ratio(tmp_path: Path):
    figures = run("prepare.py", "--images=40", "--runs=1", RAY_TMPDIR=str(tmp_path))
    assert set(figures["ratios"]) == {"PNG 128", "PNG 224", "JPEG 128", "JPEG 224"}
    for name, side in figures["images_per_second"].items():
        assert figures["ratios"][name] == pytest.approx(side["consilia"] / side["plain"])
    assert [each["syntax"] for each in figures["dicom"]] == ["Explicit VR Little Endian", "RLE Lossless"]


def test_builds_prints_each_build_of_each_recipe_with_a_fast_one_of_a_network_a_member(tmp_path: Path):
    means = run("builds.py", RAY_TMPDIR=str(tmp_path))["means"]
    assert len(means) == 6
    for name in ("best_single", "soft_vote", "greedy"):
        assert means[f"{name}, max"]["networks"] == 2 * means[f"{name}, fast"]["networks"]


def test_duplicates_prints_growth_memory_and_what_was_found(tmp_path: Path):
    figures = run("duplicates.py", "--images=1500", RAY_TMPDIR=str(tmp_path))
    assert (figures["n_small"], figures["n_large"]) == (150, 1500)
    assert figures["pictures_ratio"] == pytest.approx(figures["pictures_large_s"] / figures["pictures_small_s"])
    assert figures["exact_found"] == 1.0
    assert (figures["crowd_large_groups"], figures["black_large_groups"]) == (1, 1500)


def test_steps_prints_each_networks_speeds_and_groups(tmp_path: Path):
    figures = run("steps.py", RAY_TMPDIR=str(tmp_path))
    assert [case["architecture"] for case in figures["cases"]] == ["test_resnet", "resnet18"]
    for case in figures["cases"]:
        assert min(case["eager"], case["scoring"]) > 0
        assert case["optimiser_groups"] <= 8


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.timeout(600)
def test_steps_prints_what_compiling_costs_and_when_it_is_won_back(tmp_path: Path):
    (case,) = run("steps.py", "--compile", RAY_TMPDIR=str(tmp_path), timeout=580)["cases"]
    assert case["compile_s"] > max(0, case["compile_again_s"])
    assert (case["won_back_images"] is None) == (case["compiled"] <= case["captured"])


def test_packing_prints_totals_and_picks_the_fewest_processes_that_lose_little(tmp_path: Path):
    figures = run("packing.py", RAY_TMPDIR=str(tmp_path))
    assert figures["mps"] is False
    (case,) = figures["cases"]
    assert case["ratios"] == {n: pytest.approx(total / case["totals"]["1"]) for n, total in case["totals"].items()}
    enough = [int(n) for n, total in case["totals"].items() if total >= 0.9 * max(case["totals"].values())]
    assert case["picked"] == min(enough)


def test_input_path_prints_all_sides_and_their_ratios(tmp_path: Path):
    figures = run("input_path.py", "--cases=1", "--images=8", "--steps=1", "--rounds=1", RAY_TMPDIR=str(tmp_path))
    (case,) = figures["cases"]
    speeds = case["images_per_second"]
    assert case["b_over_a"] == pytest.approx(speeds["consilia"] / speeds["limit"])
    assert case["b_over_c"] == pytest.approx(speeds["consilia"] / speeds["torchvision"])
    assert str(case["workers"]) in case["workers_tried"]
    assert case["augmentation_share"] > 0


def test_racing_prints_what_each_method_saves_and_costs(tmp_path: Path):
    figures = run("racing.py", "--searches=1", "--orders=2", "--sizes=24", RAY_TMPDIR=str(tmp_path))
    methods = ["halving + fold pruning", "fold pruning", "incumbent", "WilcoxonPruner", "full cross-validation"]
    assert [row["method"] for row in figures["synthetic"]] == methods * 2  # at two levels of noise
    assert {row["method"] for row in figures["replay"]} == set(methods)
    for row in figures["replay"]:
        parts = row["epochs_of_finished"] + row["epochs_of_pruned"] + row["epochs_of_halved"]
        assert parts <= row["epochs_full"]
        if row["method"] == "full cross-validation":
            assert (row["saved_quantiles"], row["rank_1"], parts) == ([1.0] * 3, 1.0, row["epochs_full"])


@pytest.mark.ray
def test_scaling_prints_what_tune_and_the_driver_take_for_each_size(short_tmp: Path):
    (size,) = run("scaling.py", "--sizes=8", "--workers=4", RAY_TMPDIR=str(short_tmp))["sizes"]
    assert (size["trials"], size["workers"]) == (8, 4)
    assert size["answers"] > 8 * 12, "each trial has a fold of twelve epochs at least"
    assert size["busy"] == pytest.approx(size["driver_s"] / size["search_s"])


def test_stopped_trials_prints_each_way_of_telling_and_its_difference_to_the_first(tmp_path: Path):
    figures = run("stopped_trials.py", "--replays=2", "--trials=14", "--slots", "2", RAY_TMPDIR=str(tmp_path))
    (comparison,) = figures["comparisons"]
    assert list(comparison["ways"]) == ["COMPLETE", "PRUNED", "random"]
    assert comparison["ways"]["COMPLETE"]["n_differing"] == 0
    for found in comparison["ways"].values():
        mean, low, high = found["regret"]["difference"]
        assert low <= mean <= high
        assert mean == pytest.approx(found["regret"]["mean"] - comparison["ways"]["COMPLETE"]["regret"]["mean"])
        assert found["regret"]["mean"] >= 0


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_search_efficiency_prints_sides_that_all_reach_the_target_and_their_ratios(short_tmp: Path):
    size = ("--trials=2", "--folds=2", "--epochs=1", "--minutes=4")
    settings = ("--workers=2", "--threads=1", "--set=search.stopping.kind=none")
    figures = run("search_efficiency.py", *size, *settings, RAY_TMPDIR=str(short_tmp), timeout=880)
    sides = figures["sides"]
    assert list(sides) == ["consilia", "optuna-1", "nested"]
    assert figures["target"] == max(side["best"] for side in sides.values())
    for side in sides.values():
        assert (side["full_trials"], side["unfinished_trials"], side["epochs"]) == (2, 0, 4)
        assert side["best"] <= figures["target"]
        assert side["epochs_to_target"] in (2, 3, 4)
        assert 0 < side["seconds_to_target"] <= side["seconds"]
        assert 0 < side["cpu_seconds_to_target"] <= side["cpu_seconds"]
        assert side["trials_per_hour"] == pytest.approx(3600 * 2 / side["seconds"])
        assert side["epochs_share_of_wall"] == pytest.approx(
            side["epoch_seconds"] / (side["seconds"] * side["workers"])
        )
    for name, ratios in figures["ratios_to_consilia"].items():
        for cost, ratio in ratios.items():
            assert ratio == pytest.approx(sides[name][cost] / sides["consilia"][cost])
    # One thread and one seed: the same configurations on the same folds give the same scores, whoever searches.
    assert sides["consilia"]["best"] == sides["nested"]["best"] == sides["optuna-1"]["best"]


def test_predict_prints_every_side_and_memory(tmp_path: Path):
    figures = run("predict.py", "--architecture=test_resnet", "--rounds=1", "--workers=1", RAY_TMPDIR=str(tmp_path))
    (case,) = figures["cases"]
    speeds = case["images_per_second"]
    assert set(speeds) == {"one network", "loop", "loop, once", "consilia", "bare"}
    assert case["consilia_over_bare"] == pytest.approx(speeds["consilia"] / speeds["bare"])
    assert all(value > 0 for value in figures["memory_mib"].values())


def test_onnx_speed_prints_both_sides_and_their_ratio(tmp_path: Path):
    cases = run("onnx_speed.py", RAY_TMPDIR=str(tmp_path))["cases"]
    assert [case["batch_size"] for case in cases] == [1, 64]
    for case in cases:
        speeds = case["images_per_second"]
        assert case["onnx_over_torch"] == pytest.approx(speeds["onnx"] / speeds["torch"])
        assert case["difference"] < 1e-4


def test_serve_prints_latencies_and_both_sides_without_an_error(tmp_path: Path):
    figures = run("serve.py", "--seconds=1.5", "--clients=4", RAY_TMPDIR=str(tmp_path))
    (case,) = figures["cases"]
    assert (figures["clients"], case["errors"]) == (4, 0)
    assert 0 < case["p50_s"] <= case["p95_s"] <= case["p99_s"]
    speeds = case["images_per_second"]
    assert len(speeds["direct"]) == len(speeds["served"]) == 3
    ratios = sorted(served / direct for served, direct in zip(speeds["served"], speeds["direct"], strict=True))
    assert ratios[0] <= case["served_over_direct"] <= ratios[-1]


def test_ood_prints_what_each_candidate_flags_of_each_kind(tmp_path: Path):
    (case,) = run("ood.py", "--images=40", RAY_TMPDIR=str(tmp_path))["cases"].values()
    kinds = {"usual", "photographs", "plots", "pages", "screenshots", "noise", "digits", "inverted", "mirrored"}
    assert kinds <= set(case)
    assert len({tuple(candidates) for candidates in case.values()}) == 1
    for candidates in case.values():
        for found in candidates.values():
            assert 0 <= found["flagged"] <= found["n"]
            assert 0 <= found["auroc"] <= 1
    alone = run("ood.py", "--images=40", "--networks=none", RAY_TMPDIR=str(tmp_path))["cases"]
    (same,) = alone.values()
    assert same["usual"] == {name: case["usual"][name] for name in ("shipped, no rules", "shipped")}


def test_shift_prints_what_each_rule_chose_here_and_elsewhere(tmp_path: Path):
    figures = run("shift.py", RAY_TMPDIR=str(tmp_path))
    (world,) = figures["worlds"]
    assert world["n_here"] > 0 < world["n_elsewhere"]
    assert len(world["rules"]) == len(figures["rules"]) == 9
    for rule in world["rules"].values():
        assert all(0 <= rule[place]["accuracy"] <= 1 for place in ("here", "elsewhere"))
