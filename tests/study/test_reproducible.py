"""The same study gives the same numbers, on a real Ray, as a user would start it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from consilia.config.study_folder import StudyFolder
from consilia.data.phantoms import write_phantoms

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(900),
    pytest.mark.slow("four searches; test_on_ray compares one with a process alone, test_equality that with a record"),
]

TRIALS, K = 12, 2  # more than TPE's ten random trials, so that suggestions depend on scores
NO_RACING = "search.stopping.halving.min_scores=99"


def search(root: Path, short_tmp: Path, name: str, *settings: str) -> StudyFolder:
    """Run one study to its end in a process of its own."""
    environment = {**os.environ, "RAY_TMPDIR": str(short_tmp), "OMP_NUM_THREADS": "1"}
    for variable in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        environment.pop(variable, None)
    command = [sys.executable, "-m", "consilia", "search", "study.yaml", "--set", f"name={name}"]
    done = subprocess.run(
        [*command, *(f"--set={setting}" for setting in settings)],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return StudyFolder(root / "studies" / name)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reproducible")
    write_phantoms(root / "phantoms", patients=30, size=32)
    plan = {
        "name": "replaced",
        "data": {"card": "phantoms", "path": "phantoms", "size": 32},
        "folds": {"k": K},
        "spaces": ["tiny"],
        "search": {"trials": TRIALS, "stopping": {"kind": "racing", "halving": {"min_scores": 2}}},
        "training": {"epochs": 2, "batch_size": 16},
    }
    (root / "study.yaml").write_text(yaml.safe_dump(plan))
    return root


@pytest.fixture(scope="module")
def first(root: Path, short_tmp: Path) -> StudyFolder:
    return search(root, short_tmp, "first", "cluster.max_slots=1")


def trial(folder: StudyFolder, number: int) -> dict[str, object]:
    """A trial without what a clock told."""
    content = json.loads(folder.trial(number).record.read_text())
    for timed in (content, *content["folds"]):
        del timed["seconds"]
    return content


def predictions(folder: StudyFolder, number: int) -> list[pd.DataFrame]:
    """Out-of-fold logits of the folds that count: a stopped worker may finish one more before it notices."""
    return [
        pd.read_parquet(folder.trial(number).fold(fold["fold"]).oof)
        for fold in json.loads(folder.trial(number).record.read_text())["folds"]
    ]


def test_one_slot_gives_the_same_suggestions_folds_and_scores_bit_for_bit(
    root: Path, short_tmp: Path, first: StudyFolder
):
    second = search(root, short_tmp, "second", "cluster.max_slots=1")
    assert pd.read_parquet(first.folds).equals(pd.read_parquet(second.folds))
    for number in range(TRIALS):
        assert trial(first, number) == trial(second, number)
        for one, other in zip(predictions(first, number), predictions(second, number), strict=True):
            assert one.equals(other)


def test_more_slots_give_the_same_scores_for_the_same_hyperparameters(root: Path, short_tmp: Path, first: StudyFolder):
    both = search(root, short_tmp, "both", "cluster.max_slots=2")
    alone = {json.dumps(record["hyperparameters"]): record for record in (trial(first, n) for n in range(TRIALS))}
    n_compared = 0
    for number in range(TRIALS):
        record = trial(both, number)
        same = alone.get(json.dumps(record["hyperparameters"]))
        if same is None:
            continue  # with two slots, TPE hears results in another order
        n_compared += 1
        for one, other in zip(same["folds"], record["folds"], strict=False):  # racing may stop one of them earlier
            assert one == other
    assert n_compared >= 10  # all that TPE draws at random


def test_two_workers_train_a_trial_together_and_score_each_image_once(root: Path, short_tmp: Path):
    together = search(root, short_tmp, "together", "cluster.workers_per_trial=2", "search.trials=3", NO_RACING)
    folds = pd.read_parquet(together.folds)
    pool = folds[folds["fold"] >= 0]
    for number in range(3):
        assert trial(together, number)["state"] == "finished"
        scored = pd.concat(predictions(together, number))["image_id"]
        assert sorted(scored) == sorted(pool["image_id"])
    ledger = pd.read_parquet(together.ledger)
    held = ledger[ledger["purpose"] == "reserved"]
    assert held["device_seconds"].sum() == pytest.approx(2 * held["seconds"].sum())  # a core for each worker
